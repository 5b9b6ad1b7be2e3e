"""The data for the script of a probe's page, in few digits: a page of hundreds of layers must open at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sparseout.records.layer_record import Histogram, LayerRecord
from sparseout.records.unit_activity import Unit, UnitActivity
from sparseout.report.roles import role_of
from sparseout.report.samples import key_of
from sparseout.report.verdict import urgency

DIGITS = 6
BINS_PER_OCTAVE = 8


def layers_of(records: Sequence[LayerRecord], depths: Sequence[int]) -> list[dict[str, Any]]:
    """Return what identifies each layer."""
    return [
        {
            "index": i,
            "depth": depth,
            "name": record.name,
            "type": record.type,
            "role": role_of(record),
            "mode": record.mode,
            "units": record.units,
            "vectors": record.vectors,
            "urgency": urgency(record),
        }
        for i, (depth, record) in enumerate(zip(depths, records, strict=True))
    ]


def record_data(record: LayerRecord, names: Sequence[str], units: bool) -> dict[str, Any]:
    """Return the measures `names` of a record, its histogram and, if asked for, its units."""
    values = record.measures()
    return {
        "values": {name: rounded(values.get(name)) for name in names},
        "near_zero": rounded_all(record.near_zero),
        "near_zero_rms": rounded_all(record.near_zero_rms),
        "histogram": record.histogram and _histogram(record.histogram),
        "activity": record.unit_activity and units and _activity(record.unit_activity),
    }


def rounded(value: float | None) -> float | None:
    """Return a number with few significant digits."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.{DIGITS}g}")


def rounded_all(values: Mapping[str, float]) -> dict[str, float | None]:
    """Return a mapping with its numbers in few significant digits."""
    return {name: rounded(value) for name, value in values.items()}


def _histogram(histogram: Histogram) -> dict[str, Any]:
    """Return a histogram with the index of its first edge, from which all edges follow."""
    octave = math.floor(math.log2(histogram.edges[0]))
    first = octave * BINS_PER_OCTAVE + round((histogram.edges[0] / 2.0**octave - 1) * BINS_PER_OCTAVE)
    return {"first": first, "counts": histogram.counts, "below": histogram.below, "above": histogram.above}


def _activity(activity: UnitActivity) -> dict[str, Any]:
    return {
        "dead": activity.dead,
        "almost": activity.almost_dead,
        "rates": [float(f"{rate:.4g}") for rate in activity.rates],
        "quietest": [_unit(unit) for unit in activity.quietest],
        "loudest": [_unit(unit) for unit in activity.loudest],
    }


def _unit(unit: Unit) -> list[Any]:
    return [unit.unit, unit.fired, [[key_of(sample), float(f"{sample.value:.3g}")] for sample in unit.samples]]
