"""Tables of text cells, as plain text or for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
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


def html_table(header: Sequence[str], rows: Sequence[Sequence[str]], lines: Sequence[str] = (), left: int = 2) -> str:
    """Return a table for a notebook, aligned as in `plain_table`, between a first and further `lines` of text.

    It has no colours of its own, so it fits light and dark pages.

    >>> html_table(["q"], [], ["1 < 2"])
    '<div>1 &lt; 2</div><table><tr><th style="text-align: left">q</th></tr></table>'
    """

    def row(cells: Sequence[str], tag: str) -> str:
        sides = ["left" if i < left else "right" for i in range(len(cells))]
        texts = (f'<{tag} style="text-align: {side}">{escape(text)}</{tag}>' for side, text in zip(sides, cells, strict=True))
        return f"<tr>{''.join(texts)}</tr>"

    table = f"<table>{row(header, 'th')}{''.join(row(cells, 'td') for cells in rows)}</table>"
    before, after = (f"<div>{escape(lines[0])}</div>", lines[1:]) if lines else ("", ())
    return "".join([before, table, *(f"<div>{escape(line)}</div>" for line in after)])


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
