"""Pages: a template filled with data, in one file that needs no network."""

from __future__ import annotations

import dataclasses
from typing import Any

from sparseout.records.files import Location, write_atomic
from sparseout.records.json_lines import finite


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a table: what is shown, and the value to sort by."""

    shown: str
    value: str | float | None


def text(value: object) -> Cell:
    """A cell of text."""
    return Cell(str(value), str(value))


def number(value: float | None, shown: str = "{:.3g}") -> Cell:
    """A cell with a number; a dash for what does not exist."""
    value = finite(value)
    return Cell("-" if value is None else shown.format(value), value)


def write(template: str, path: Location, *, data: Any, **context: Any) -> None:
    """Fill the template called `template`; `data` is for its script. What comes from records is text wherever it appears."""
    import jinja2
    from plotly.offline import get_plotlyjs

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sparseout.report"), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "allow_nan": False}
    html = environment.get_template(template).render(plotlyjs=get_plotlyjs(), data=finite(data), **context)
    write_atomic(path, html.encode())
