"""The figure of runs with a target: achieved against target sparsity, and the course of training."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from sparseout.metrics import TOLERANCE
from sparseout.records.choice import tuned_settings
from sparseout.records.files import Location
from sparseout.records.layer_record import MEASURE_TITLES
from sparseout.records.methods import METHODS
from sparseout.records.scores import title_of
from sparseout.report import statistics
from sparseout.report.figure import COLOURS, GREY, save
from sparseout.report.settings import Setting, curves_of, dials_of, group_by_setting

MARKERS = dict(zip(METHODS, "osD^v<>XPph*", strict=True))
LOSS_TITLES = {"valid_loss": "Loss on held-out data", "test_loss": "Test loss", "train_loss": "Loss in training"}


def write_targets(
    records: Sequence[Mapping[str, Any]],
    histories: Mapping[str, Sequence[Mapping[str, Any]]],
    path: str | Location,
    choice: Mapping[str, Any] | None = None,
) -> None:
    """Draw a dot and a line for each run. Runs with a fixed `q` show the range that `q` can reach.

    Each regularizer has a marker of its own. If they have different dials, only the course of the first dial is drawn.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    curves = curves_of(group_by_setting(records, tuned_settings(choice)))
    targeted = [setting for curve in curves if curve.axis == "target_sparsity" for setting in curve.settings]
    fixed = [curve for curve in curves if curve.axis == "q"]
    targets = sorted({setting.x for setting in targeted})
    colours = {x: colormaps["viridis"](0.9 * i / max(1, len(targets) - 1)) for i, x in enumerate(targets)}
    measure = targeted[0].values["target_measure"]
    score = statistics.score_of(records, choice)
    figure = Figure(figsize=(13, 7.6), layout="constrained")
    axes = figure.subplots(2, 3).flatten()
    _draw_achieved(axes[0], targeted, [setting for curve in fixed for setting in curve.settings], measure, colours)
    _draw_course(axes[1], targeted, "measured", colours)
    for x, colour in colours.items():
        axes[1].axhline(x, color=colour, linewidth=1, linestyle=":")
    dial = dials_of(run for setting in targeted for run in setting.runs)[0]
    moved = [setting for setting in targeted if setting.runs[0]["control"]["dial"] == dial]
    _draw_course(axes[2], moved, "value", colours)
    if dial == "strength":
        axes[2].set_yscale("log")
    _draw_losses(axes[3], targeted, histories, colours)
    for setting in targeted:
        axes[4].plot(
            setting.per_seed(measure),
            setting.per_seed(score),
            MARKERS[setting.regularizer],
            color=colours[setting.x],
            markersize=5,
        )
    for curve, line in zip(fixed, itertools.cycle(COLOURS), strict=False):
        label = "fixed q" if len(fixed) == 1 else f"fixed q: {curve.label}"
        axes[4].plot(
            curve.means(measure), curve.means(score), "s-", color=line, markersize=4, linewidth=1, alpha=0.7, label=label
        )
        for q, x, y in zip(curve.x, curve.means(measure), curve.means(score), strict=True):
            axes[4].annotate(f"{q:g}", (x, y), xytext=(3, 4), textcoords="offset points", fontsize=8, color=GREY)
    title = MEASURE_TITLES[measure]
    axes[0].set(xlabel=f"target {title}", ylabel=f"{title} on the test data")
    axes[0].locator_params(axis="x", nbins=6)
    axes[4].set(xlabel=f"{title} on the test data")
    names = ("Achieved against target", f"{title[0].upper()}{title[1:]} over training", f"{dial} over training")
    for i, name in enumerate((*names, _loss(targeted, histories)[1], title_of(score).capitalize())):
        axes[i].set_title(name, loc="left", weight="bold")
    for i in (1, 2, 3):
        axes[i].set_xlabel("fraction of training")
    if fixed:
        axes[4].legend(frameon=False, fontsize=9)
    axes[5].axis("off")
    marks = [axes[1].plot([], [], color=colour, linewidth=3, label=f"{x:g}")[0] for x, colour in colours.items()]
    axes[5].add_artist(axes[5].legend(handles=marks, title="target", loc="center left", frameon=False))
    titles = {setting.regularizer: setting.title for setting in targeted}
    if len(titles) > 1:
        marks = [axes[1].plot([], [], MARKERS[name], color=GREY, label=title)[0] for name, title in titles.items()]
        axes[5].legend(handles=marks, loc="center right", frameon=False)
    save(figure, path)


def _draw_achieved(
    axes: Any, targeted: Sequence[Setting], fixed: Sequence[Setting], measure: str, colours: Mapping[float, Any]
) -> None:
    """Draw a dot for each run, the targets with their tolerance, and the range of runs with a fixed `q`."""
    ends = [min(colours), max(colours)]
    reached = [value for setting in fixed for value in setting.per_seed(measure) if not math.isnan(value)]
    if reached:
        axes.axhspan(min(reached), max(reached), color=GREY, alpha=0.12, linewidth=0)
        axes.text(
            0.03, max(reached), "reached with a fixed q", transform=axes.get_yaxis_transform(), fontsize=9, color=GREY, va="top"
        )
    axes.plot(ends, ends, color=GREY, linewidth=1)
    low, high = ([x + sign * TOLERANCE for x in ends] for sign in (-1, 1))
    axes.fill_between(ends, low, high, color=GREY, alpha=0.3, linewidth=0)
    missing = 0
    for setting in targeted:
        achieved = [run["control"]["achieved"] for run in setting.runs]
        known = [value for value in achieved if value is not None]
        missing += len(achieved) - len(known)
        axes.plot([setting.x] * len(known), known, MARKERS[setting.regularizer], color=colours[setting.x], markersize=5)
    if missing:
        text = f"not measured: {missing} of {sum(len(setting.runs) for setting in targeted)} runs"
        axes.text(0.97, 0.03, text, transform=axes.transAxes, fontsize=9, color="C3", ha="right")


def _draw_course(axes: Any, targeted: Sequence[Setting], name: str, colours: Mapping[float, Any]) -> None:
    for setting in targeted:
        for run in setting.runs:
            values = run["control"]["course"][name]
            axes.plot(
                [i / (len(values) - 1) for i in range(len(values))], values, color=colours[setting.x], linewidth=1.2, alpha=0.8
            )


def _draw_losses(
    axes: Any,
    targeted: Sequence[Setting],
    histories: Mapping[str, Sequence[Mapping[str, Any]]],
    colours: Mapping[float, Any],
) -> None:
    loss, _ = _loss(targeted, histories)
    for setting in targeted:
        for run in setting.runs:
            epochs = histories.get(run["run"], ())
            times = [(i + 1) / len(epochs) for i in range(len(epochs))]
            axes.plot(times, [epoch.get(loss) for epoch in epochs], color=colours[setting.x], linewidth=1.2, alpha=0.8)


def _loss(targeted: Sequence[Setting], histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[str, str]:
    """Return the name and title of the loss in the histories."""
    epochs = next((histories[run["run"]] for setting in targeted for run in setting.runs if histories.get(run["run"])), [{}])
    name = next((name for name in LOSS_TITLES if name in epochs[0]), "train_loss")
    return name, LOSS_TITLES[name]
