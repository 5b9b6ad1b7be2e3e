"""Several whole runs of a benchmark, one after another, as one: their medians, and how far apart the runs are."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from typing import Any

from sparseout.bench.op import Row

LOW, HIGH = "_run_low", "_run_high"


def merge(runs: Sequence[Sequence[Row]]) -> list[Row]:
    """Return the rows that several runs have in common, or that the first ones have before the last is complete.

    A measured number is the median of the runs. `..._run_low` and `..._run_high` are the lowest and the highest of the runs.

    Args:
        runs: the rows of each run, in one order.
    """
    return [_merged([row for row in rows if row is not None]) for rows in itertools.zip_longest(*runs)]


def differences(rows: Sequence[Row], name: str) -> list[float]:
    """Return by how much the ratio with the prefix `name` rises from the lowest to the highest run.

    Rows without it, and those to which the others are compared, whose ratio is 1, are left out.

    >>> differences([{"ratio_run_low": 0.5, "ratio_run_high": 0.75}, {"ratio_run_low": 1.0, "ratio_run_high": 1.0}, {}], "ratio")
    [0.5]
    """
    measured = [(row[name + LOW], row[name + HIGH]) for row in rows if row.get(name + LOW)]
    return [high / low - 1 for low, high in measured if (low, high) != (1, 1)]


def _merged(rows: Sequence[Row]) -> Row:
    return {name: _value(name, [row[name] for row in rows if name in row]) for row in rows for name in row}


def _value(name: str, values: Sequence[Any]) -> Any:
    if name.endswith(LOW):
        return min(values)
    if name.endswith(HIGH):
        return max(values)
    if any(value is None or isinstance(value, (str, bool)) for value in values):
        return next(filter(None, values), values[0])  # a note of any run stays
    return statistics.median(values) if len(set(values)) > 1 else values[0]
