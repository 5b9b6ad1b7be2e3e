"""Tables of text cells, as plain text or for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sparseout.extras import needed_for

if TYPE_CHECKING:
    from rich.table import Table

_MIN_WIDTH = 20  # of the first column, in characters, if its text is that long


def number(value: float | None) -> str:
    """Return a number with three significant digits, or a dash for None."""
    return "-" if value is None else f"{value:.3g}"


def plain_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 2) -> str:
    """Return a table with aligned columns: the first `left` to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for row in (header, *rows):
        cells = enumerate(zip(row, widths, strict=True))
        lines.append("  ".join(cell.ljust(width) if i < left else cell.rjust(width) for i, (cell, width) in cells))
    return "\n".join(line.rstrip() for line in lines)


def rich_table(header: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> Table:
    """Return a table for the terminal. Cells are plain text: markup in them is not interpreted."""
    with needed_for("table()", "report"):
        from rich import box
        from rich.table import Table
        from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, caption=Text(caption), caption_justify="left", collapse_padding=True)
    for i, name in enumerate(header):
        width = min(_MIN_WIDTH, max((len(row[0]) for row in rows), default=0)) if not i else None
        table.add_column(Text(name), justify="right" if i else "left", overflow="fold", no_wrap=i > 0, min_width=width)
    for row in rows:
        table.add_row(*map(Text, row))
    return table
