"""How far a layer is from its sparsity target, and what to do where it is out of reach."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from sparseout.records.tables import number, plain_table

NO_ZEROS = 1e-4  # a fraction of zeros at most: some activation functions underflow to 0 now and then
SMALL, LARGE = 0.5, 2.0  # magnitudes, relative to the scale, that are far from 1
STRONG = 4.0  # odds of a drop: those of Dropout with p = 0.8
WEAK = 0.25  # of the odds that Dropout with the same p has


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """A layer, or the mean of all, and its target.

    Attributes:
        layer: its name.
        label: what to call it.
        measure: what is measured.
        target, measured: of the measure. `measured` is NaN before the first measurement, where the last one was not a number (of
            activations with a NaN or Inf, or Hoyer sparseness of a single unit), and where the layer has not run for long.
        q, p: of the layer now.
        missed: it is not within 0.02 of its target, or not measured.
        out_of_reach: it lies still, with `q` at its bound.
        bounds: of `q`.
        at_bound: `q`, and `p` where it is driven, lies at the bound that keeps it from its target.
        rms: root mean square of the layer's input in the last measurement; NaN before.
        scale: of the layer.
        p_bounds: of `p`; None where it is not driven.
    """

    layer: str
    label: str
    measure: str
    target: float
    measured: float
    q: float
    p: float
    missed: bool
    out_of_reach: bool
    bounds: tuple[float, float]
    at_bound: bool
    rms: float
    scale: float | Literal["rms"]
    p_bounds: tuple[float, float] | None

    @property
    def reached(self) -> bool:
        """Whether what is measured is within 0.02 of the target."""
        return not self.missed

    @property
    def state(self) -> str:
        """`"not measured"`, `"reached"`, `"out of reach"`, `"at its bound"` or `"on its way"`."""
        if math.isnan(self.measured):
            return "not measured"
        if self.reached:
            return "reached"
        return "out of reach" if self.out_of_reach else "at its bound" if self.at_bound else "on its way"

    def __str__(self) -> str:
        text = f"{self.measure} target {self.target:g} in {self.label}"
        low, high = self.bounds
        if self.state == "out of reach":
            return f"{text} is beyond what q in [{low:g}, {high:g}] reached here ({self.measured:.3f}): {self._advice()}"
        if self.state == "at its bound":
            return f"{text}: q is at its bound {self.q:.3g}, at {self.measured:.3f}: {self._advice()}"
        if self.state == "not measured":
            return f"{text}: not measured: it did not run in training, or its {self.measure} was not a number"
        return f"{text}: {self.state}, at {self.measured:.3f} with q = {self.q:.3g}"

    def _advice(self) -> str:
        """What helps where `q` is at its bound."""
        sparser = self.measured < self.target
        if sparser and self.measure == "zeros" and self.measured <= NO_ZEROS:
            return "its activations are never exactly 0, as after Tanh, GELU or SiLU: use measure='hoyer'"
        size = 1.0 if self.scale == "rms" else self.rms / self.scale
        if 0 < size < SMALL or LARGE < size < math.inf:
            factor = size ** (self.q - 2)  # of the noise's odds, to those of Dropout
            odds = factor * self.p / (1 - self.p) if self.p < 1 else math.inf
            kind = f"its activations are {'small' if size < SMALL else 'large'} (RMS {self.rms:.2g})"
            like = f"Dropout with p = {odds / (1 + odds) if odds < math.inf else 1:.2g}"
            if odds >= STRONG and factor > 1:
                bound = "raise the lower" if sparser else "lower the upper"
                return (
                    f"{kind}, where q = {self.q:.3g} is noise as strong as {like}, from which little is learned: "
                    f"use scale='rms', or {bound} bound of q"
                )
            if factor <= WEAK:
                return f"{kind}, where q = {self.q:.3g} is noise as weak as {like}: use scale='rms', or {self._more_p(sparser)}"
        widen = "widen the bounds of q, " if not sparser or self.bounds[0] else ""
        return f"{self._more_p(sparser)}, {widen}train longer, or aim elsewhere"

    def _more_p(self, sparser: bool) -> str:
        if self.p_bounds:
            return f"raise the upper bound of p (now {self.p:g})" if sparser else f"lower the lower bound of p (now {self.p:g})"
        return f"{'raise' if sparser else 'lower'} p (now {self.p:g}) or let it move with p=(low, high)"


@dataclasses.dataclass(frozen=True, repr=False)
class TargetReport:
    """The layers and their targets. Printing it shows a table, and what helps where `q` is at its bound."""

    layers: tuple[LayerReport, ...]

    def __getitem__(self, layer: str) -> LayerReport:
        """The entry of a layer, or `"mean"`."""
        found = {entry.layer: entry for entry in self.layers}
        if layer not in found:
            raise KeyError(f"{layer!r} is none of {', '.join(map(repr, found))}")
        return found[layer]

    @property
    def reached(self) -> bool:
        """Whether every layer was measured, and is within 0.02 of its target."""
        return all(entry.reached for entry in self.layers)

    def __repr__(self) -> str:
        rows = [
            [
                *(entry.label, entry.state, number(entry.target)),
                number(None if math.isnan(entry.measured) else entry.measured),
                *(number(entry.q), number(entry.p)),
            ]
            for entry in self.layers
        ]
        header = ["layer", "state", "target", self.layers[0].measure, "q", "p"]
        at_bound = (str(entry) for entry in self.layers if entry.state in ("at its bound", "out of reach"))
        return "\n".join([plain_table(header, rows), *at_bound])
