"""Reports as HTML for notebooks, in the colours of the page around them."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_CELL = (
    "padding: 0.2em 0.8em; border: 0; border-bottom: 1px solid rgba(128, 128, 128, 0.4); background: none; white-space: nowrap"
)
_TABLE = "border-collapse: collapse; margin: 0.4em 0; font-variant-numeric: tabular-nums"
_SCROLLED = "max-width: 100%; max-height: 40em; overflow: auto"


def page(heads: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str] = (), left: int | None = None) -> str:
    """Return lines of text, a table whose first row is the header, and more lines.

    It sets no colours but that of the lines of the table, so it fits light and dark pages. A large table scrolls.

    Args:
        heads: lines above the table.
        rows: cells of the header and of each row; none for no table.
        notes: lines below the table.
        left: number of columns aligned to the left; the others hold numbers, and are aligned to the right. Default: all.

    >>> page(["1 < 2"], [])
    '<div>1 &lt; 2</div>'
    """
    return "".join([*map(_line, heads), _table(rows, left) if rows else "", *map(_line, notes)])


def plural(count: int, noun: str) -> str:
    """Return a count with its noun.

    >>> plural(1, "layer"), plural(2, "layer")
    ('1 layer', '2 layers')
    """
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _line(text: str) -> str:
    return f"<div>{escape(text)}</div>"


def _table(rows: Sequence[Sequence[str]], left: int | None) -> str:
    header, *body = rows
    lines = "".join(_row("td", row, left) for row in body)
    return f'<div style="{_SCROLLED}"><table style="{_TABLE}">{_row("th", header, left)}{lines}</table></div>'


def _row(tag: str, cells: Sequence[str], left: int | None) -> str:
    bold = "; font-weight: bold" if tag == "th" else ""
    styles = (f"{_CELL}{bold}; text-align: {'left' if left is None or i < left else 'right'}" for i in range(len(cells)))
    return (
        "<tr>"
        + "".join(f'<{tag} style="{style}">{escape(text)}</{tag}>' for style, text in zip(styles, cells, strict=True))
        + "</tr>"
    )
