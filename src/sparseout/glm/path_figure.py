"""The figure of coefficient paths: a line for each coefficient, named at its end."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy
from matplotlib import colormaps
from matplotlib.figure import Figure

_GREY = "#808080"
_NAMED = 10  # coefficients with a name
_GAP = 0.05  # smallest distance between two names, as a fraction of the height of the axes


class NotebookFigure(Figure):
    """A figure that a notebook shows, although `pyplot` does not know it."""

    def _repr_png_(self) -> bytes:
        png = io.BytesIO()
        self.savefig(png, format="png", dpi=110)
        return png.getvalue()


def new_figure(panels: int = 1) -> Figure:
    """Return an empty figure for a number of panels side by side."""
    return NotebookFigure(figsize=(6.4 if panels == 1 else min(18.0, 4.2 * panels), 4.2), layout="constrained")


def draw_path(axes: Any, parameter: str, grid: Any, columns: Any, names: Sequence[str], limits: Sequence[float]) -> None:
    """Draw a line for each column against the grid, with names at the right ends of the largest ones.

    `limits` are the smallest and the largest coefficient to make room for.
    """
    order = numpy.argsort(grid, kind="stable")
    x, values = grid[order], columns[order]
    largest = numpy.argsort(-abs(values).max(axis=0), kind="stable")[:_NAMED]
    colours = {int(k): colormaps["tab10"](i % 10) for i, k in enumerate(sorted(largest))}
    for k in range(values.shape[1]):
        style = {"color": colours[k], "linewidth": 1.8} if k in colours else {"color": _GREY, "linewidth": 0.8, "alpha": 0.5}
        axes.plot(x, values[:, k], marker="." if len(x) == 1 else "", label=names[k], **style)
    axes.axhline(0, color=_GREY, linewidth=1)
    if parameter == "q" and x[0] <= 2 <= x[-1]:
        axes.axvline(2, color=_GREY, linestyle=":")
        axes.annotate(
            "Dropout", (2, 1), xycoords=("data", "axes fraction"), xytext=(3, -11), textcoords="offset points", color=_GREY
        )
    axes.set(xlabel={"p": "drop probability p", "q": "norm q"}[parameter], ylabel="coefficient")
    axes.spines[["top", "right"]].set_visible(False)
    low, high = min(limits[0], 0.0), max(limits[1], 0.0)
    margin = 0.05 * (high - low) or 1.0
    axes.set_ylim(low - margin, high + margin)
    _name_lines(axes, x[-1], {names[k]: (values[-1, k], colour) for k, colour in colours.items()})


def _name_lines(axes: Any, x: float, ends: dict[str, tuple[float, Any]]) -> None:
    """Write the name of each line at its end, with names that would overlap moved apart."""
    low, high = axes.get_ylim()
    ordered = sorted(ends.items(), key=lambda item: item[1][0])
    heights = spread([(value - low) / (high - low) for _, (value, _) in ordered], _GAP)
    for height, (name, (value, colour)) in zip(heights, ordered, strict=True):
        position = {"xy": (x, value), "xytext": (1.03, height), "textcoords": "axes fraction", "va": "center"}
        line = {"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 1, "shrinkB": 0, "relpos": (0, 0.5)}
        axes.annotate(name, **position, color=colour, fontsize=9, annotation_clip=False, arrowprops=line)


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Return ascending heights, moved apart until neighbours are at least `gap` apart, and below 1 if they fit.

    >>> spread([0.25, 0.25, 0.875], 0.25)
    [0.125, 0.375, 0.875]
    """
    up, down = list(heights), list(heights)
    for i in range(1, len(up)):
        up[i] = max(up[i], up[i - 1] + gap)
        down[-1 - i] = min(down[-1 - i], down[-i] - gap)
    moved = [(high + low) / 2 for high, low in zip(up, down, strict=True)]
    ceiling = max(1.0, gap * (len(moved) - 1))
    for i in reversed(range(len(moved))):
        moved[i] = min(moved[i], ceiling)
        ceiling = moved[i] - gap
    return moved
