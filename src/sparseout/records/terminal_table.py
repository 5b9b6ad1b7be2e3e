"""A table for the terminal that shows names whole, and leaves columns out where the width is short."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from sparseout.extras import needed_for
from sparseout.records.tables import rich_table

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table

# From the column that is left out first; measures that are not listed come after the counts, the last one first.
_COUNTS = ("vectors", "units")
_MOST_TELLING = ("rms", "dead", "zeros", "hoyer")
_ALWAYS = ("layer", "mode")
_UNLIMITED = 10**6  # characters


class TerminalTable:
    """A renderable of rich. Cells are plain text: markup in them is not interpreted.

    Args:
        header: the names of the columns. The first one holds the names of layers.
        rows: the cells.
        caption: the text below the table.
    """

    def __init__(self, header: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> None:
        with needed_for("table()", "report"):
            import rich  # noqa: F401
        self._header, self._rows, self._caption = list(header), [list(row) for row in rows], caption

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the table with as many columns as fit, and the name of each layer in one piece."""
        wide = options.update(max_width=_UNLIMITED)
        left_out: list[str] = []
        for name in (None, *self._candidates()):
            left_out += [name] if name else []
            table = self._table([other for other in self._header if other not in left_out], left_out)
            if console.measure(table, options=wide).maximum <= options.max_width:
                break
        yield table

    def _candidates(self) -> Iterator[str]:
        """Yield the columns that may be left out, the first one first. The most telling measure stays."""
        measures = [name for name in self._header if name not in (*_ALWAYS, *_COUNTS)]
        others = [name for name in reversed(measures) if name not in _MOST_TELLING]
        order = [*others, *(name for name in _MOST_TELLING if name in measures)]
        yield from (name for name in _COUNTS if name in self._header)
        yield from order[:-1]

    def _table(self, names: Sequence[str], left_out: Sequence[str]) -> Table:
        caption = [f"left out, as the terminal is narrow: {', '.join(left_out)}"] if left_out else []
        caption += [self._caption] if self._caption else []
        columns = [self._header.index(name) for name in names]
        return rich_table(names, [[row[i] for i in columns] for row in self._rows], "\n".join(caption))
