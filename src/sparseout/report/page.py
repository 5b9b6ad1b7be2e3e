"""HTML pages: a template filled with data, in a single file that needs no network."""

from __future__ import annotations

import dataclasses
from typing import Any

from sparseout.records.files import Location, write_atomic
from sparseout.records.json_lines import finite


@dataclasses.dataclass(frozen=True)
class Cell:
    """A table cell: the text to show and the value to sort by."""

    shown: str
    value: str | float | None


def text(value: object) -> Cell:
    """Return a cell with text."""
    return Cell(str(value), str(value))


def number(value: float | None, shown: str = "{:.3g}") -> Cell:
    """Return a cell with a number, or a dash for None, NaN and infinity."""
    value = finite(value)
    return Cell("-" if value is None else shown.format(value), value)


def write(template: str, path: str | Location, *, data: Any, **context: Any) -> None:
    """Fill a template, with `data` for its script, and write the page. Values are escaped, so markup in records is text."""
    import jinja2
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sparseout.report"), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "allow_nan": False}
    html = environment.get_template(template).render(plotlyjs=get_plotlyjs(), data=finite(data), **context)
    write_atomic(path, html.encode())
