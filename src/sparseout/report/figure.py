"""The figure of a study: sparseness against q, activity by rank, and the score against q."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from sparseout.records.choice import tuned_settings
from sparseout.records.files import Location, write_atomic
from sparseout.records.scores import title_of
from sparseout.report import statistics
from sparseout.report.settings import Curve, curves_of, group_by_setting

COLOURS = ("#2183b3", "#d1495b", "#66a182", "#8d6a9f", "#edae49", "#2e4057")
GREY = "#808080"
STYLES = ("--", ":", "-.")  # line styles of settings without q
MAX_CURVES = 12  # more cannot be distinguished


def write_figure(records: Sequence[Mapping[str, Any]], path: str | Location, choice: Mapping[str, Any] | None = None) -> None:
    """Draw a dot for each run, the mean over seeds with a band of one standard deviation, and the profiles of the first curve."""
    from matplotlib.figure import Figure

    score = statistics.score_of(records, choice)
    curves = curves_of(group_by_setting(records, tuned_settings(choice)))
    left_out = f"the first {MAX_CURVES} of {len(curves)} curves" if len(curves) > MAX_CURVES else None
    curves = curves[:MAX_CURVES]
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    for axes, measure, title in (
        (left, "hoyer", "Hoyer sparseness"),
        (right, score, title_of(score).capitalize()),
    ):
        colours, styles = itertools.cycle(COLOURS), itertools.cycle(STYLES)
        for curve in curves:
            if curve.axis:
                _draw(axes, curve, measure, next(colours))
            else:
                axes.axhline(curve.means(measure)[0], color=GREY, linestyle=next(styles), label=curve.label)
        _mark_dropout(axes, curves)
        axes.set_title(title, loc="left", weight="bold")
        axes.set_xlabel("q")
    if len(curves) > 1:
        left.legend(frameon=False, fontsize=9, title=left_out)
    profiled = next((curve for curve in curves if curve.axis), None)
    if profiled:
        _draw_profiles(middle, profiled, profiled.label if len(curves) > 1 else None)
    save(figure, path)


def save(figure: Any, path: str | Location, dpi: int = 160) -> None:
    """Apply the common style to all panels and write the figure as PNG."""
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    png = io.BytesIO()
    figure.savefig(png, dpi=dpi, format="png")
    write_atomic(path, png.getvalue())


def _draw(axes: Any, curve: Curve, measure: str, colour: str) -> None:
    means, spreads = curve.means(measure), curve.spreads(measure)
    low, high = zip(*((mean - spread, mean + spread) for mean, spread in zip(means, spreads, strict=True)), strict=True)
    axes.fill_between(curve.x, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.plot(curve.x, means, color=colour, linewidth=2, label=curve.label)
    dots = [(q, value) for q, setting in zip(curve.x, curve.settings, strict=True) for value in setting.per_seed(measure)]
    axes.plot(*zip(*dots, strict=True), "o", color=colour, markersize=4, alpha=0.7)


def _mark_dropout(axes: Any, curves: Sequence[Curve]) -> None:
    """Mark Dropout by a line at q = 2 if the curves cover it."""
    inside = [q for curve in curves if curve.axis for q in curve.x]
    if inside and min(inside) <= 2 <= max(inside):
        axes.axvline(2, color=GREY, linewidth=1, alpha=0.6)
        axes.text(1.98, 0.1, "Dropout", transform=axes.get_xaxis_transform(), color=GREY, fontsize=9, rotation=90, ha="right")


def _draw_profiles(axes: Any, curve: Curve, title: str | None) -> None:
    """Draw how activity falls from the most active to the least active unit of a sample."""
    from matplotlib import colormaps

    step = math.ceil(len(curve.settings) / MAX_CURVES)
    for i, (q, setting, shade) in enumerate(zip(curve.x, curve.settings, curve.shades, strict=True)):
        label = f"q = {q:g}" if i % step == 0 else None
        axes.plot(*setting.profile(), color=colormaps["viridis"](shade), linewidth=2, label=label)
    axes.legend(frameon=False, fontsize=9, title=title)
    axes.set_title("Activity by rank of the unit", loc="left", weight="bold")
    axes.set(xlabel="rank of the unit, most active first (%)", ylabel="magnitude relative to the largest")
