"""A table for the terminal that shows names whole, and leaves columns out where the width is short."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sparseout.extras import needed_for
from sparseout.records.tables import rich_table

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table

_UNLIMITED = 10**6  # characters


class TerminalTable:
    """A renderable of rich. Cells are plain text: markup in them is not interpreted.

    Args:
        header: the names of the columns. The first one is aligned to the left.
        rows: the cells.
        caption: the text below the table.
        leave_out: the columns that may be left out, the first one first.
    """

    def __init__(self, header: Sequence[str], rows: Sequence[Sequence[str]], caption: str, leave_out: Sequence[str]) -> None:
        with needed_for("table()", "report"):
            import rich  # noqa: F401
        self._header, self._rows, self._caption = list(header), [list(row) for row in rows], caption
        self._leave_out = [name for name in leave_out if name in header]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the table with as many columns as fit, and each name in one piece."""
        wide = options.update(max_width=_UNLIMITED)
        left_out: list[str] = []
        for name in (None, *self._leave_out):
            left_out += [name] if name else []
            table = self._table([other for other in self._header if other not in left_out], left_out)
            if console.measure(table, options=wide).maximum <= options.max_width:
                break
        yield table

    def _table(self, names: Sequence[str], left_out: Sequence[str]) -> Table:
        caption = [f"left out, as the terminal is narrow: {', '.join(left_out)}"] if left_out else []
        caption += [self._caption] if self._caption else []
        columns = [self._header.index(name) for name in names]
        return rich_table(names, [[row[i] for i in columns] for row in self._rows], "\n".join(caption))
