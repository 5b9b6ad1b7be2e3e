"""Reports as HTML for notebooks, in the colours of the page around them."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_CELL = "padding: 0.2em 0.8em 0.2em 0; text-align: left; border-bottom: 1px solid rgba(128, 128, 128, 0.4)"
_HEADER = f"{_CELL}; font-weight: bold"


def page(heads: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    """Return lines of text, a table whose first row is the header, and more lines. No colours, so it fits dark pages too.

    >>> page(["1 < 2"], [], [])
    '<div>1 &lt; 2</div>'
    """
    return "".join([*map(_line, heads), _table(rows) if rows else "", *map(_line, notes)])


def _line(text: str) -> str:
    return f"<div>{escape(text)}</div>"


def _table(rows: Sequence[Sequence[str]]) -> str:
    header, *body = [[escape(cell) for cell in row] for row in rows]
    top = "".join(f'<th style="{_HEADER}">{cell}</th>' for cell in header)
    lines = "".join("<tr>" + "".join(f'<td style="{_CELL}">{cell}</td>' for cell in row) + "</tr>" for row in body)
    return f'<table style="border-collapse: collapse"><tr>{top}</tr>{lines}</table>'
