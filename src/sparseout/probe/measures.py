"""The measures of a probe: which sums each needs, and its value as a function of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from sparseout.checks import check_choice, check_number
from sparseout.probe.sums import BINS_PER_OCTAVE, OCTAVES, ExtraSums, Sums
from sparseout.records.layer_record import MEASURE_TITLES, Histogram
from sparseout.records.probe_summary import ProbeSettings

BASIC = ("zeros", "hoyer", "rms")
THRESHOLDS = (1e-3, 1e-2, 1e-1)
MOST_SAMPLES = 16


def check_settings(
    measures: Any, thresholds: Any, histogram: bool | None, every: int, calls: Any, samples: int = 0
) -> ProbeSettings:
    """Return the settings given by the arguments of `Probe`.

    Raises:
        ValueError, TypeError: an argument is unknown or out of range.
    """
    everything = measures == "all"
    if isinstance(measures, str):
        names: Sequence[str] = BASIC if check_choice("measures", measures, ("basic", "all")) == "basic" else tuple(MEASURE_TITLES)
    else:
        names = [check_choice("measures", name, tuple(MEASURE_TITLES)) for name in measures]
    if thresholds is None:
        thresholds = THRESHOLDS if everything else ()
    for threshold in thresholds:
        check_number("thresholds", threshold, math.ulp(0.0), math.nextafter(math.inf, 0), "positive finite numbers")
    if check_number("every", every, 1, 2**31 - 1, "an integer of at least 1") != int(every):
        raise ValueError(f"every must be an integer of at least 1, got {every!r}")
    if check_number("samples", samples, 0, MOST_SAMPLES, f"an integer from 0 to {MOST_SAMPLES}") != int(samples):
        raise ValueError(f"samples must be an integer from 0 to {MOST_SAMPLES}, got {samples!r}")
    return ProbeSettings(
        measures=tuple(name for name in MEASURE_TITLES if name in names),
        thresholds=tuple(sorted({float(threshold) for threshold in thresholds})),
        histogram=everything if histogram is None else bool(histogram),
        every=int(every),
        calls=check_choice("calls", calls, ("together", "apart")),
        samples=int(samples),
    )


def extra_sums(settings: ProbeSettings) -> ExtraSums:
    """Return which sums the measures need besides the basic ones."""
    names = set(settings.measures)
    return ExtraSums(
        mean=not names.isdisjoint(("mean", "std")),
        treves_rolls="treves_rolls" in names,
        fourth=not names.isdisjoint(("kurtosis", "participation_ratio")),
        gini="gini" in names,
        units=settings.samples > 0 or not names.isdisjoint(("lifetime", "dead", "always_on")),
        thresholds=settings.thresholds,
        histogram=settings.histogram,
    )


def measures_of(sums: Sums, settings: ProbeSettings) -> dict[str, Any]:
    """Return the measures as fields of a `LayerRecord`; None for a measure that does not exist."""
    totals, vectors, elements, basic = sums.totals, sums.vectors, sums.elements, sums.basic
    per_vector = vectors - sums.singles
    rms = math.sqrt(basic["squares"] / elements)
    values: dict[str, float] = {"zeros": basic["zeros"] / elements, "rms": rms}
    values["hoyer"] = basic["hoyer"] / per_vector if per_vector else math.nan
    if "sum" in totals:
        values["mean"] = totals["sum"].item() / elements
        values["std"] = math.sqrt(max((rms - values["mean"]) * (rms + values["mean"]), 0.0))  # max(NaN, 0.0) is NaN
    for name in ("gini", "treves_rolls", "kurtosis", "participation_ratio"):
        if name in totals:
            values[name] = totals[name].item() / vectors
    values |= _unit_measures(sums)
    exists = basic["nonfinite"] < vectors  # if every vector has a NaN, not even the fraction of zeros exists
    result: dict[str, Any] = {name: _finite(values[name]) if exists else None for name in settings.measures if name in values}
    if settings.thresholds and exists:
        below = (totals["below"] / elements).tolist()
        result["near_zero"] = dict(zip(map(_key, settings.thresholds), below, strict=True))
    if settings.histogram:
        counts = totals["histogram"].tolist()
        result["histogram"] = _histogram(counts)
        if settings.thresholds and math.isfinite(rms):
            result["near_zero_rms"] = {
                _key(t): _count_below(counts, basic["zeros"], t * rms) / elements for t in settings.thresholds
            }
    return result


def _unit_measures(sums: Sums) -> dict[str, float]:
    """Return the measures of single units over the vectors, averaged over the units."""
    if not sums.by_unit:
        return dict.fromkeys(("lifetime", "dead", "always_on"), math.nan)
    zeros, absolute, squares = (sums.by_unit[name] for name in ("zeros", "absolute", "squares"))
    lifetime = (1 - (absolute / sums.vectors).square() / (squares / sums.vectors)).clamp(0, 1)
    lifetime = torch.where(zeros == sums.vectors, 1, lifetime)
    return {
        "lifetime": lifetime.mean().item(),
        "dead": (zeros == sums.vectors).double().mean().item(),
        "always_on": (zeros == 0).double().mean().item(),
    }


def _histogram(counts: Sequence[float]) -> Histogram:
    """Return the histogram with these counts, without the empty bins at both ends."""
    inner = [int(count) for count in counts[1:-1]]
    filled = [i for i, count in enumerate(inner) if count] or [0]
    first, last = filled[0], filled[-1] + 1
    edges = tuple(map(_edge, range(first, last + 1)))
    return Histogram(edges, tuple(inner[first:last]), int(counts[0]), int(counts[-1]))


def _edge(index: int) -> float:
    """Return the lower edge of bin `index`, not counting the first, which has none."""
    octave, part = divmod(index, BINS_PER_OCTAVE)
    return 2.0 ** (octave - OCTAVES) * (1 + part / BINS_PER_OCTAVE)


def _count_below(counts: Sequence[float], zeros: float, threshold: float) -> float:
    """Return the number of magnitudes below `threshold`: exact at a bin edge, interpolated linearly within a bin."""
    total, low = counts[0], _edge(0)
    if threshold < low:
        return zeros
    for index, count in enumerate(counts[1:-1]):
        high = _edge(index + 1)
        if threshold < high:
            return total + count * (threshold - low) / (high - low)
        total, low = total + count, high
    return total


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _key(threshold: float) -> str:
    return f"{threshold:g}"
