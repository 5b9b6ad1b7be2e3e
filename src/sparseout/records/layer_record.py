"""The measured sparsity of one layer, as plain data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from sparseout.records.unit_activity import UnitActivity

MEASURE_TITLES = {
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


@dataclasses.dataclass(frozen=True)
class Histogram:
    """Counts of magnitudes `|x|` by bin, exact zeros included.

    Attributes:
        edges: bin edges, one more than `counts`. Each octave has eight bins of equal width. Empty bins at both ends are left out.
        counts: the number of values with `edges[i] <= |x| < edges[i + 1]`.
        below: the number of values with `|x| < edges[0]`: zeros, and values below 2^-64.
        above: the number of values with `|x| >= edges[-1]`: values from 2^64 up, Inf and NaN.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    below: int
    above: int


@dataclasses.dataclass(frozen=True)
class LayerRecord:
    """The measures of one layer in one mode. A measure that was not requested, or does not exist, is None.

    Attributes:
        layer, type: the module's path in the model, and its class.
        mode: `"train"` or `"eval"`.
        call: the index of the call within a forward pass, from 1; None if the calls are counted together.
        value: `"output"`, or `"clean input"` for a Dropout or Sparseout layer.
        unit_dim: the dimensions of the value that hold the units of a vector.
        units: the number of units per vector; None if vectors differ in length.
        calls, vectors: the number of measured calls and vectors.
        zero_vectors: the number of all-zero vectors, whose Hoyer sparseness is 1.
        single_vectors: the number of vectors with a single unit, which have no Hoyer sparseness.
        nonfinite_vectors: the number of vectors with NaN or Inf, which make the means None.
        padding: the number of vectors left out as padding; None if a mask could not be understood.
        zeros, rms, mean, std: taken over all elements.
        hoyer, gini, treves_rolls, kurtosis, participation_ratio: means over the vectors.
        lifetime, dead, always_on: taken over the units; None if vectors differ in length.
        near_zero: the fraction of `|x| < t`, by threshold `t`.
        near_zero_rms: the fraction of `|x| < t rms`, by threshold `t`, interpolated linearly within a bin of the histogram.
        histogram: the histogram of magnitudes.
        unread_mask: why `padding` is None.
        unit_activity: how often single units fire, if a measure of units was taken and vectors are of one length.
    """

    layer: str
    type: str
    mode: str
    call: int | None
    value: str
    unit_dim: tuple[int, ...]
    units: int | None
    calls: int
    vectors: int
    zero_vectors: int
    single_vectors: int
    nonfinite_vectors: int
    padding: int | None
    zeros: float | None = None
    hoyer: float | None = None
    rms: float | None = None
    gini: float | None = None
    treves_rolls: float | None = None
    kurtosis: float | None = None
    participation_ratio: float | None = None
    lifetime: float | None = None
    dead: float | None = None
    always_on: float | None = None
    mean: float | None = None
    std: float | None = None
    near_zero: Mapping[str, float] = dataclasses.field(default_factory=dict)
    near_zero_rms: Mapping[str, float] = dataclasses.field(default_factory=dict)
    histogram: Histogram | None = dataclasses.field(default=None, repr=False)
    unread_mask: str | None = None
    unit_activity: UnitActivity | None = None

    @property
    def key(self) -> tuple[str, str, int | None]:
        """The layer, mode and call, which identify a record within a summary."""
        return self.layer, self.mode, self.call

    @property
    def name(self) -> str:
        """The layer's path, with the index of the call if calls are counted apart."""
        return (self.layer or "(model)") + (f" #{self.call}" if self.call else "")

    def measures(self) -> dict[str, float | None]:
        """Return all measures that are single numbers, including those by threshold."""
        result = {name: getattr(self, name) for name in MEASURE_TITLES}
        result |= {f"|x| < {t}": value for t, value in self.near_zero.items()}
        return result | {f"|x| < {t} RMS": value for t, value in self.near_zero_rms.items()}
