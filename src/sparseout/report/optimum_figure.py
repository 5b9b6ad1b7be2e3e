"""The figure of the best q: the scores of each seed against q, their mean quadratic, and the interval of its optimum."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from sparseout.records.files import Location
from sparseout.report.figure import COLOURS, GREY, STYLES, save
from sparseout.report.optimum import Optimum
from sparseout.report.statistics import estimate


@dataclasses.dataclass(frozen=True)
class Panel:
    """The scores of one study.

    Attributes:
        title: what the study trains.
        score: the title of the score.
        q: the values of q.
        scores: the scores of each seed, one for each q; None without a score.
        best: the optimum of the scores.
        references: the mean score of runs without q, by their label.
    """

    title: str
    score: str
    q: Sequence[float]
    scores: Mapping[int, Sequence[float | None]]
    best: Optimum
    references: Mapping[str, float]


def write_optima(panels: Sequence[Panel], path: str | Location) -> None:
    """Draw a panel for each study, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6 * len(panels), 4.4), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _draw(axes, panel)
    save(figure, path)


def _draw(axes: Any, panel: Panel) -> None:
    from numpy.polynomial import Polynomial

    best, q = panel.best, list(panel.q)
    for scores in panel.scores.values():
        axes.plot(q, [math.nan if score is None else score for score in scores], "o-", color=GREY, alpha=0.35, markersize=3, lw=1)
    columns = [[score for score in column if score is not None] for column in zip(*panel.scores.values(), strict=True)]
    means = [estimate(column) for column in columns]
    halves = [0.0 if math.isnan(mean.low) else mean.high - mean.mean for mean in means]
    label = "mean over seeds, 95 % interval"
    axes.errorbar(q, [mean.mean for mean in means], halves, fmt="o", color=COLOURS[0], capsize=3, markersize=6, label=label)
    complete = [scores for scores in panel.scores.values() if None not in scores]
    if complete:
        means_of = [sum(column) / len(complete) for column in zip(*complete, strict=True)]
        axes.plot(*Polynomial.fit(q, means_of, 2).linspace(200), color=COLOURS[0], linewidth=1.5, alpha=0.8)
    if not math.isnan(best.low):
        axes.axvspan(best.low, best.high, color=COLOURS[4], alpha=0.25, lw=0, label=f"best q, {best.low:.2f} to {best.high:.2f}")
    if not math.isnan(best.value):
        axes.axvline(best.value, color=COLOURS[4], linewidth=2)
    axes.axvline(2, color=GREY, linewidth=1, linestyle=(0, (1, 3)))
    for (name, value), style in zip(panel.references.items(), STYLES, strict=False):
        axes.axhline(value, color=COLOURS[5], linewidth=1, linestyle=style, label=name)
    axes.set_title(panel.title, loc="left", weight="bold")
    axes.set(xlabel="q: sparser than Dropout below 2, denser above", ylabel=panel.score)
    axes.legend(facecolor="white", edgecolor="none", framealpha=1, fontsize=8)
