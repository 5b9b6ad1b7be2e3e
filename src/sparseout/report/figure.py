"""The figure of a study: sparseness and test loss against q, as a file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparseout.report.settings import Series, series, settings

COLOURS = ("#0b6e99", "#d1495b", "#66a182", "#8d6a9f", "#edae49", "#2e4057")
GREY = "#808080"


def write_figure(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw Hoyer sparseness and test loss against `q`: a dot a run, a line through the means, a band of ± one std."""
    from matplotlib.figure import Figure

    curves = series(settings(records))
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, measure, label in ((left, "hoyer", "Hoyer sparseness of the activations"), (right, "test_loss", "test loss")):
        colours = iter(COLOURS * (1 + len(curves) // len(COLOURS)))
        for curve in curves:
            _draw(axes, curve, measure, next(colours) if curve.has_q else GREY)
        _mark_dropout(axes, curves)
        axes.set(xlabel="q", ylabel=label)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    left.set_title("sparser to the left, denser to the right", fontsize=10, color=GREY, loc="left")
    if len(curves) > 1:
        left.legend(frameon=False, fontsize=9)
    part = path.with_name(f".{path.name}.part")
    figure.savefig(part, dpi=160, format="png")
    part.replace(path)


def _draw(axes: Any, curve: Series, measure: str, colour: str) -> None:
    means = [setting.mean(measure) for setting in curve.settings]
    if not curve.has_q:
        axes.axhline(means[0], color=colour, linestyle=":", label=curve.label)
        return
    stds = [0.0 if math.isnan(std := setting.std(measure)) else std for setting in curve.settings]
    low, high = zip(*((mean - std, mean + std) for mean, std in zip(means, stds, strict=True)), strict=True)
    axes.fill_between(curve.q, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.plot(curve.q, means, color=colour, linewidth=2, label=curve.label)
    for q, setting in zip(curve.q, curve.settings, strict=True):
        axes.plot([q] * len(setting.runs), setting.each(measure), "o", color=colour, markersize=4, alpha=0.7)


def _mark_dropout(axes: Any, curves: Sequence[Series]) -> None:
    """A line at q = 2, where it lies within the curves."""
    inside = [q for curve in curves if curve.has_q for q in curve.q]
    if inside and min(inside) <= 2 <= max(inside):
        axes.axvline(2, color=GREY, linewidth=1, alpha=0.6)
        axes.text(2, 1.0, " Dropout", transform=axes.get_xaxis_transform(), color=GREY, fontsize=9, va="top")
