"""What a probe measures, by name: which sums each measure needs, and how it follows from them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal

import torch

from sparseout.checks import check_choice, check_number
from sparseout.probe.sums import BINS_AN_OCTAVE, OCTAVES, Parts, Sums

Calls = Literal["together", "apart"]

MEASURES = {
    "zeros": "fraction of zeros",
    "hoyer": "Hoyer sparseness",
    "rms": "root mean square",
    "gini": "Gini index",
    "treves_rolls": "Treves-Rolls sparseness",
    "kurtosis": "kurtosis",
    "participation_ratio": "participation ratio (active units)",
    "lifetime": "lifetime sparseness",
    "dead": "fraction of dead units",
    "always_on": "fraction of units that are never zero",
    "mean": "mean",
    "std": "standard deviation",
}
BASIC = ("zeros", "hoyer", "rms")
THRESHOLDS = (1e-3, 1e-2, 1e-1)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is measured, how often, and whether the calls of a layer in one forward pass are counted together or apart.

    Attributes:
        measures: names out of `MEASURES`.
        thresholds: magnitudes below which a value is near zero, absolute and as parts of the layer's RMS.
        histogram: whether magnitudes are counted by bins.
        every: one forward pass in so many is measured.
        calls: "together" or "apart".
    """

    measures: tuple[str, ...]
    thresholds: tuple[float, ...]
    histogram: bool
    every: int
    calls: Calls

    @classmethod
    def of(cls, measures: Any, thresholds: Any, histogram: bool | None, every: int, calls: str) -> Settings:
        """The settings that a probe's arguments amount to.

        Raises:
            ValueError, TypeError: an argument is unknown or out of its range.
        """
        everything = measures == "all"
        if isinstance(measures, str):
            names: Sequence[str] = BASIC if check_choice("measures", measures, ("basic", "all")) == "basic" else tuple(MEASURES)
        else:
            names = [check_choice("measures", name, tuple(MEASURES)) for name in measures]
        if thresholds is None:
            thresholds = THRESHOLDS if everything else ()
        for threshold in thresholds:
            check_number("thresholds", threshold, math.ulp(0.0), math.nextafter(math.inf, 0), "positive finite numbers")
        if check_number("every", every, 1, 2**31 - 1, "an integer of at least 1") != int(every):
            raise ValueError(f"every must be an integer of at least 1, got {every!r}")
        check_choice("calls", calls, ("together", "apart"))
        histogram = everything if histogram is None else bool(histogram)
        chosen = tuple(name for name in MEASURES if name in names)
        return cls(chosen, tuple(sorted({float(t) for t in thresholds})), histogram, int(every), calls)  # type: ignore[arg-type]

    @property
    def parts(self) -> Parts:
        """The sums that these measures need."""
        names = set(self.measures)
        return Parts(
            mean=not names.isdisjoint(("mean", "std")),
            treves_rolls="treves_rolls" in names,
            fourth=not names.isdisjoint(("kurtosis", "participation_ratio")),
            gini="gini" in names,
            units=not names.isdisjoint(("lifetime", "dead", "always_on")),
            thresholds=self.thresholds,
            histogram=self.histogram,
        )

    def values(self, sums: Sums) -> dict[str, Any]:
        """The measures of the vectors whose `sums` these are: what a record holds; None for what does not exist."""
        totals, vectors, elements, basic = sums.totals, sums.vectors, sums.elements, sums.basic
        per_vector = vectors - sums.singles
        rms = math.sqrt(basic["squares"] / elements)
        values: dict[str, float] = {"zeros": basic["zeros"] / elements, "rms": rms}
        values["hoyer"] = basic["hoyer"] / per_vector if per_vector else math.nan
        if "sum" in totals:
            values["mean"] = totals["sum"].item() / elements
            values["std"] = math.sqrt(max((rms - values["mean"]) * (rms + values["mean"]), 0.0))  # NaN stays
        for name in ("gini", "treves_rolls", "kurtosis", "participation_ratio"):
            if name in totals:
                values[name] = totals[name].item() / vectors
        values |= _of_units(sums)
        exists = basic["nonfinite"] < vectors  # NaN alone has no fraction of zeros
        result: dict[str, Any] = {name: _exists(values[name]) if exists else None for name in self.measures if name in values}
        if self.thresholds and exists:
            below = (totals["below"] / elements).tolist()
            result["near_zero"] = dict(zip(map(_key, self.thresholds), below, strict=True))
        if self.histogram:
            counts = totals["histogram"].tolist()
            result["histogram"] = Histogram.of(counts)
            if self.thresholds and math.isfinite(rms):
                result["near_zero_rms"] = {_key(t): _below(counts, basic["zeros"], t * rms) / elements for t in self.thresholds}
        return result


@dataclasses.dataclass(frozen=True)
class Histogram:
    """How many magnitudes lie in each bin, exact zeros included.

    Attributes:
        edges: of the bins that hold any, and those between: eight an octave, equally wide within it. One more than `counts`.
        counts: of `edges[i] <= |x| < edges[i + 1]`.
        below: of `|x| < edges[0]`: the zeros, and what is below 2^-64.
        above: of `|x| >= edges[-1]`: what is at least 2^64, Inf and NaN.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    below: int
    above: int

    @classmethod
    def of(cls, counts: Sequence[float]) -> Histogram:
        """From the counts of all bins."""
        inner = [int(count) for count in counts[1:-1]]
        held = [i for i, count in enumerate(inner) if count] or [0]
        first, last = held[0], held[-1] + 1
        edges = tuple(map(_edge, range(first, last + 1)))
        return cls(edges, tuple(inner[first:last]), int(counts[0]), int(counts[-1]))


def _edge(index: int) -> float:
    """The lower edge of the `index`-th bin that has one."""
    octave, part = divmod(index, BINS_AN_OCTAVE)
    return 2.0 ** (octave - OCTAVES) * (1 + part / BINS_AN_OCTAVE)


def _below(counts: Sequence[float], zeros: float, threshold: float) -> float:
    """How many magnitudes are below `threshold`: exact where it is an edge, in proportion within a bin."""
    total, low = counts[0], _edge(0)
    if threshold < low:
        return zeros
    for index, count in enumerate(counts[1:-1]):
        high = _edge(index + 1)
        if threshold < high:
            return total + count * (threshold - low) / (high - low)
        total, low = total + count, high
    return total


def _of_units(sums: Sums) -> dict[str, float]:
    """The measures of each unit over the vectors, as means over the units."""
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


def _exists(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _key(threshold: float) -> str:
    return f"{threshold:g}"
