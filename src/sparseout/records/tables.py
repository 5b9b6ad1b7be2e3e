"""Cells of text as a table: plain, or for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sparseout.extras import needed_for

if TYPE_CHECKING:
    from rich.table import Table


_TELLING = ("zeros", "hoyer", "rms", "gini", "dead")
_NAME_WIDTH = 20


def telling(measures: Sequence[str], most: int = len(_TELLING)) -> list[str]:
    """Those of `measures` to show beside the layers' names, where there is room for so many."""
    return list(measures) if len(measures) <= most else [name for name in measures if name in _TELLING[:most]]


def number(value: float | None) -> str:
    """Three significant digits; a dash for what does not exist."""
    return "-" if value is None else f"{value:.3g}"


def plain_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 2) -> str:
    """Aligned columns, of which the first `left` are text."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for row in (header, *rows):
        cells = enumerate(zip(row, widths, strict=True))
        lines.append("  ".join(cell.ljust(width) if i < left else cell.rjust(width) for i, (cell, width) in cells))
    return "\n".join(line.rstrip() for line in lines)


def rich_table(header: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> Table:
    """The same for the terminal. Names are data, so nothing in them is markup."""
    with needed_for("table()", "report"):
        from rich import box
        from rich.table import Table
        from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, caption=Text(caption), caption_justify="left", collapse_padding=True)
    for i, name in enumerate(header):
        width = min(_NAME_WIDTH, max((len(row[0]) for row in rows), default=0)) if not i else None
        table.add_column(Text(name), justify="right" if i else "left", overflow="fold", no_wrap=i > 0, min_width=width)
    for row in rows:
        table.add_row(*map(Text, row))
    return table
