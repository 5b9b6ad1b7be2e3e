"""What a probe found for one layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from sparseout.probe.measures import MEASURES, Histogram


@dataclasses.dataclass(frozen=True)
class LayerRecord:
    """One layer in one mode. A measure that was not asked for, or does not exist, is None.

    Attributes:
        layer, type: the module's path in the model and its class.
        mode: `"train"` or `"eval"`.
        call: which of its calls in a forward pass this is, from 1; None where they are counted together.
        value: `"output"`, or the `"clean input"` of a Dropout or Sparseout.
        unit_dim: dimensions of the value that hold the units of a vector.
        units: how many a vector has; None where vectors differ.
        calls, vectors: how many were measured.
        zero_vectors, single_vectors, nonfinite_vectors: how many were all zero (their Hoyer sparseness is 1), had one unit (they
            have none), or had a NaN or Inf (which make means None).
        padding: vectors left out because a mask says that they are no tokens; None where a mask could not be understood.
        zeros, rms, mean, std: over all elements.
        hoyer, gini, treves_rolls, kurtosis, participation_ratio: means over the vectors.
        lifetime, dead, always_on: over the units; None where vectors differ in their number.
        near_zero: fraction of `|x| < t` by threshold `t`.
        near_zero_rms: fraction of `|x| < t rms`, read off the histogram, in proportion within a bin.
        histogram: of the magnitudes.
        unread_mask: why `padding` is None.
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
    histogram: Histogram | None = None
    unread_mask: str | None = None

    @property
    def key(self) -> tuple[str, str, int | None]:
        """What tells a record from the others of a summary."""
        return self.layer, self.mode, self.call

    @property
    def name(self) -> str:
        """The layer, and which call where they are counted apart."""
        return (self.layer or "(model)") + (f" #{self.call}" if self.call else "")

    def measures(self) -> dict[str, float | None]:
        """All measures that are single numbers, thresholds among them."""
        result = {name: getattr(self, name) for name in MEASURES}
        result |= {f"|x| < {t}": value for t, value in self.near_zero.items()}
        return result | {f"|x| < {t} RMS": value for t, value in self.near_zero_rms.items()}
