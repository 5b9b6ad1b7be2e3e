"""The table of a study's settings, for the terminal and the page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sparseout.records.choice import tuned_settings
from sparseout.records.scores import scores_of, title_of
from sparseout.records.terminal_table import TerminalTable
from sparseout.report.settings import AXES, Curve, Setting, curves_of, group_by_setting, main_axis

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


def columns_of(records: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the results that tables show, with their titles: `COLUMNS`, with the scores of a user's study before `penalty`."""
    names = list(COLUMNS)
    own = [name for name in scores_of(records) if name not in COLUMNS]
    place = names.index("penalty")
    return {name: COLUMNS.get(name, title_of(name)) for name in (*names[:place], *own, *names[place:])}


def settings_table(
    records: Sequence[Mapping[str, Any]], tuned: frozenset[str] = frozenset()
) -> tuple[list[str], list[list[str]]]:
    """Return the header and one row per setting: means over seeds, and the standard deviation of Hoyer sparseness."""
    curves = curves_of(group_by_setting(records, tuned))
    columns = columns_of(records)
    measures = [name for name in columns if any(name in record for record in records)]
    axis = main_axis(curves)
    header = [AXES[axis], *(["setting"] if len(curves) > 1 else []), "seeds", *(columns[name] for name in measures)]
    rows = [_row(setting, curve, axis, len(curves) > 1, measures) for curve in curves for setting in curve.settings]
    return add_target_columns(header, rows, [setting for curve in curves for setting in curve.settings])


def add_target_columns(
    header: list[str], rows: list[list[str]], settings: Sequence[Setting]
) -> tuple[list[str], list[list[str]]]:
    """Append the largest error and the settling time to a table of `settings`, if any of them has a target."""
    if not any(setting.axis == "target_sparsity" for setting in settings):
        return header, rows
    extended = [row + _target_cells(setting) for row, setting in zip(rows, settings, strict=True)]
    return [*header, "largest error", "settling time"], extended


def table(records: Sequence[Mapping[str, Any]], choice: Mapping[str, Any] | None = None) -> TerminalTable:
    """Return the table for the terminal, with the setting in front, as many results as fit, and names in one piece."""
    header, rows = settings_table(records, tuned_settings(choice))
    if "setting" in header:  # before the axis
        header, *rows = ([row[1], row[0], *row[2:]] for row in (header, *rows))
    leave_out = [COLUMNS[name] for name in ("seconds", "rms", "noise_loss", "penalty")]
    caption = "Means over the seeds, on the test set."
    return TerminalTable(header, rows, caption, [*leave_out, "settling time", COLUMNS["zeros"], "largest error", "seeds"])


def _row(setting: Setting, curve: Curve, axis: str, named: bool, measures: Sequence[str]) -> list[str]:
    axis_value = f"{setting.x:g}" if setting.axis == axis else setting.name if setting.axis else "-"
    row = [axis_value, *([curve.label] if named else []), str(len(setting.runs))]
    for name in measures:
        cell = _number(setting.mean(name), _DIGITS.get(name, 4))
        spread = name == "hoyer" and len(setting.runs) > 1
        row.append(f"{cell} ± {_number(setting.std(name), _DIGITS[name])}" if spread else cell)
    return row


def _target_cells(setting: Setting) -> list[str]:
    """Return the largest distance from the target, and the fraction of training after which the last run settled."""
    if setting.axis != "target_sparsity":
        return ["-", "-"]
    errors = setting.target_errors
    largest = math.nan if any(map(math.isnan, errors)) else max(errors)  # max may ignore NaN
    return [_number(largest, 3), _number(max(run["control"]["settled"] for run in setting.runs), 2)]


def _number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"
