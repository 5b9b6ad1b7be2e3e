"""Figures and tables of the experiments on the theorem."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from sparseout.records.schema import Record
from sparseout.report.figure import save

LABELS = {
    "breast cancer": "Breast cancer, Bernoulli",
    "counts": "Synthetic counts, Poisson",
    "diabetes": "Diabetes, Gaussian",
    "digits": "Digits, multinomial",
    "strong": "Synthetic, strong features matter",
    "even": "Synthetic, every fifth matters",
    "weak": "Synthetic, weak features matter",
}


def write_figure(draw: Callable[[list[Record], Any], None], rows: list[Record], path: str | Path) -> None:
    """Write a figure as wide as four panels, drawn by `draw`."""
    figure = Figure(figsize=(14, 4), layout="constrained")
    draw(rows, figure)
    save(figure, path, dpi=120)


def table(header: Sequence[str], lines: Sequence[Sequence[str]], caption: str) -> Table:
    """Return a table for the terminal, with a left-aligned first column."""
    result = Table(box=box.SIMPLE_HEAD, caption=caption, caption_justify="left", collapse_padding=True)
    for column, name in enumerate(header):
        result.add_column(name, justify="right" if column else "left")
    for line in lines:
        result.add_row(*line)
    return result
