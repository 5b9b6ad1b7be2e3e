"""The table of a study's settings, for the terminal and for the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sparseout.report.settings import Setting, settings, varying

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = {
    "test_loss": "test loss",
    "perplexity": "perplexity",
    "accuracy": "accuracy",
    "hoyer": "Hoyer",
    "zeros": "zeros",
    "rms": "RMS",
    "seconds": "seconds",
}
_DIGITS = {"test_loss": 4, "perplexity": 2, "rms": 3, "hoyer": 3, "zeros": 3, "accuracy": 4, "seconds": 1}


def cells(records: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """The table's header, and its rows: a setting each, means over its seeds, with the standard deviation of the Hoyer column."""
    rows = settings(records)
    names = varying(rows)
    measures = [name for name in COLUMNS if any(name in run for row in rows for run in row.runs)]
    header = ["q", *names, "seeds"]
    for name in measures:
        header += [COLUMNS[name], "± std"] if name == "hoyer" else [COLUMNS[name]]
    return header, [_row(setting, names, measures) for setting in rows]


def table(records: Sequence[Mapping[str, Any]]) -> Table:
    """The table for the terminal."""
    from rich.table import Table

    header, rows = cells(records)
    result = Table(caption="Means over the seeds, on the test set; Hoyer sparseness with its standard deviation.")
    for name in header:
        result.add_column(name, justify="right")
    for row in rows:
        result.add_row(*row)
    return result


def _row(setting: Setting, names: Sequence[str], measures: Sequence[str]) -> list[str]:
    row = [f"{setting.values['q']:g}" if setting.has_q else "-"]
    row += [str(setting.values[name]) for name in names]
    row.append(str(len(setting.runs)))
    for name in measures:
        row.append(_number(setting.mean(name), _DIGITS[name]))
        if name == "hoyer":
            row.append(_number(setting.std(name), _DIGITS[name]))
    return row


def _number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"
