"""The figure of `cash_in.py`: score, speed and size against the fraction of zeros, a row for each network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparseout.report.figure import COLOURS, GREY, save

TITLES = {"sparseout": "Sparseout", "l1": "L1, reader", "hoyer_square": "HoyerSquare", "k_winners": "KWinners"}
SCORES = {"autoencoder": ("test_loss", "test loss (nats per pixel)"), "transformer": ("perplexity", "test perplexity")}
VERSIONS = {"skip_zeros": "-", "drop_dead, skip_zeros": "--"}
PANELS = ("score", "speed, batch 1, cold weights", "size after drop_dead (MB)")


def write_figure(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw a line for each method, through its targets, and the network without a method in grey."""
    from matplotlib.figure import Figure

    models = list(dict.fromkeys(record["model"] for record in records))
    figure = Figure(figsize=(13, 4.2 * len(models)), layout="constrained")
    grid = figure.subplots(len(models), 3, squeeze=False)
    for (score, speed, size), model in zip(grid, models, strict=True):
        rows = [record for record in records if record["model"] == model]
        measure, name = SCORES[model]
        _draw(score, rows, lambda each, measure=measure: each["versions"]["dense"][measure])
        score.set_ylabel(name)
        for version, style in VERSIONS.items():
            _draw(speed, rows, lambda each, version=version: each["versions"][version]["speed"]["cold"], style)
        speed.set_ylabel("times as fast as without a method")
        speed.set_ylim(bottom=0)
        _draw(size, rows, lambda each: each["versions"]["drop_dead"]["megabytes"])
        size.set_ylim(bottom=0)
        size.set_ylabel("megabytes")
        for axes, title in zip((score, speed, size), PANELS, strict=True):
            axes.set_title(f"{model}: {title}", loc="left", weight="bold", fontsize=10)
            axes.set_xlabel("zeros that the next layer reads (%)")
        score.legend(frameon=False, fontsize=9)
        handles = [speed.plot([], [], color=GREY, linestyle=style, label=version)[0] for version, style in VERSIONS.items()]
        speed.legend(handles=handles, frameon=False, fontsize=9)
    save(figure, path)


def _draw(axes: Any, rows: Sequence[dict[str, Any]], value: Any, style: str = "-") -> None:
    for row in rows:
        if row["method"] == "none":
            axes.plot(100 * row["zeros"], value(row), "o", color=GREY, label="no method" if style == "-" else None)
    for colour, method in zip(COLOURS, TITLES, strict=False):
        line = sorted((100 * row["zeros"], value(row)) for row in rows if row["method"] == method)
        if line:
            label = TITLES[method] if style == "-" else None
            axes.plot(*zip(*line, strict=True), marker="o", color=colour, linewidth=2, linestyle=style, label=label)
