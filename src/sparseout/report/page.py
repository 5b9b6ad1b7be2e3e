"""HTML pages: a template filled with data, in a single file that needs no network."""

from __future__ import annotations

import base64
import dataclasses
import functools
import gzip
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

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sparseout.report"), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "allow_nan": False, "separators": (",", ":")}
    html = environment.get_template(template).render(plotly=_packed_plotly(), data=finite(data), **context)
    write_atomic(path, html.encode())


@functools.cache
def _packed_plotly() -> str:
    """Return the plotting library, compressed to a third of its 5 MB, in base64."""
    from plotly.offline import get_plotlyjs

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()
