"""The table of a study's settings, for the terminal and for the page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sparseout.report.settings import AXES, Curve, Setting, curves_of, main_axis, settings

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = {
    "test_loss": "test loss",
    "perplexity": "perplexity",
    "accuracy": "accuracy",
    "penalty": "penalty",
    "noise_loss": "noise loss",
    "hoyer": "Hoyer ± std",
    "zeros": "zeros",
    "rms": "RMS",
    "seconds": "seconds",
}
_DIGITS = {"test_loss": 4, "perplexity": 2, "accuracy": 4, "penalty": 4, "noise_loss": 4}
_DIGITS |= {"hoyer": 3, "zeros": 3, "rms": 3, "seconds": 1}


def cells(records: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """The table's header, and its rows: a setting each, with means over its seeds and Hoyer's standard deviation."""
    curves = curves_of(settings(records))
    measures = [name for name in COLUMNS if any(name in record for record in records)]
    axis = main_axis(curves)
    header = [AXES[axis], *(["setting"] if len(curves) > 1 else []), "seeds", *(COLUMNS[name] for name in measures)]
    rows = [_row(setting, curve, axis, len(curves) > 1, measures) for curve in curves for setting in curve.settings]
    return with_reach(header, rows, [setting for curve in curves for setting in curve.settings])


def with_reach(header: list[str], rows: list[list[str]], settings: Sequence[Setting]) -> tuple[list[str], list[list[str]]]:
    """A table of `settings`, where one is driven with the largest miss of its runs, and when the last of them had settled."""
    if not any(setting.axis == "target_sparsity" for setting in settings):
        return header, rows
    reached = [row + _reach(setting) for row, setting in zip(rows, settings, strict=True)]
    return [*header, "largest miss", "settled"], reached


def table(records: Sequence[Mapping[str, Any]]) -> Table:
    """The table for the terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    header, rows = cells(records)
    caption = "Means over the seeds, on the test set."
    result = Table(box=box.SIMPLE_HEAD, caption=caption, caption_justify="left", collapse_padding=True)
    for name in header:
        result.add_column(name, justify="right", no_wrap=name != "setting")
    for row in rows:
        result.add_row(*map(Text, row))
    return result


def _row(setting: Setting, curve: Curve, axis: str, named: bool, measures: Sequence[str]) -> list[str]:
    place = f"{setting.x:g}" if setting.axis == axis else setting.name if setting.axis else "-"
    row = [place, *([curve.label] if named else []), str(len(setting.runs))]
    for name in measures:
        cell = _number(setting.mean(name), _DIGITS[name])
        spread = name == "hoyer" and len(setting.runs) > 1
        row.append(f"{cell} ± {_number(setting.std(name), _DIGITS[name])}" if spread else cell)
    return row


def _reach(setting: Setting) -> list[str]:
    """By how much the setting's runs miss their target at most, and after what fraction of training the last had settled."""
    if setting.axis != "target_sparsity":
        return ["-", "-"]
    misses = setting.misses  # of which `max` finds a NaN or not, by their order
    largest = math.nan if any(map(math.isnan, misses)) else max(misses)
    return [_number(largest, 3), _number(max(run["control"]["settled"] for run in setting.runs), 2)]


def _number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"
