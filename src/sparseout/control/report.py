"""Reports on how far layers are from their sparsity targets, with advice for targets that are out of reach."""

from __future__ import annotations

import dataclasses
import math

from sparseout.checks import LayerScale
from sparseout.control.running_loss import RunningLoss
from sparseout.metrics import TOLERANCE
from sparseout.notebook import page, plural
from sparseout.records.tables import number, plain_table

NO_ZEROS = 1e-4  # fractions up to this count as no zeros: some activation functions occasionally underflow to 0
SMALL_RMS, LARGE_RMS = 0.5, 2.0  # relative to the scale
STRONG_ODDS = 4.0  # odds of a drop under Dropout with p = 0.8
WEAK_RATIO = 0.25  # of the noise variance to the variance under Dropout with the same p


@dataclasses.dataclass(frozen=True, repr=False)
class LayerReport:
    """A layer, or the mean over all layers, and its target.

    Attributes:
        layer: name of the layer, or `"mean"`.
        label: the layer as messages name it.
        measure: name of the measure.
        target, measured: values of the measure. `measured` is NaN before the first measurement, after one that is not finite
            (NaN or Inf in the activations, or the Hoyer sparseness of a single unit), and if the layer has not run for a horizon
            of the controller, which is at least twelve measured steps.
        name, value: the number that is controlled, `"q"` for Sparseout, and its current value.
        p: current `p` of a Sparseout layer; None for other layers.
        out_of_reach: whether the target is missed and the measured value has stalled with the number at a bound, or did not
            respond to it.
        responds: whether the measured value has moved since the first measurement.
        bounds: bounds of the number.
        at_bound: whether a bound of `q`, or of `p` if it is controlled, keeps the layer from its target.
        rms: root mean square of the layer's input in the last measurement; NaN before the first.
        scale: `scale` of a Sparseout layer; None for other layers.
        p_bounds: bounds of `p`; None if `p` is not controlled.
    """

    layer: str
    label: str
    measure: str
    target: float
    measured: float
    name: str
    value: float
    p: float | None
    out_of_reach: bool
    responds: bool
    bounds: tuple[float, float]
    at_bound: bool
    rms: float
    scale: LayerScale | None
    p_bounds: tuple[float, float] | None

    @property
    def reached(self) -> bool:
        """Whether the measured value is within 0.02 of the target. False if nothing was measured."""
        return abs(self.target - self.measured) <= TOLERANCE

    @property
    def state(self) -> str:
        """One of `"not measured"`, `"reached"`, `"out of reach"`, `"at its bound"` and `"on its way"`."""
        if math.isnan(self.measured):
            return "not measured"
        if self.reached:
            return "reached"
        return "out of reach" if self.out_of_reach else "at its bound" if self.at_bound else "on its way"

    def __str__(self) -> str:
        text = f"{self.measure} target {self.target:g} in {self.label}"
        low, high = self.bounds
        number = f"{self.name} = {self.value:.3g}"
        if self.state == "out of reach":
            saturated = "" if self.responds else ", where it is saturated: it has not moved"
            reached = f"{self.name} in [{low:g}, {high:g}] reached {self.measured:.3f}{saturated}"
            return f"{text} is out of reach: {reached}; {self._advice()}"
        if self.state == "at its bound":
            return f"{text}: {number} is at its bound, with {self.measured:.3f} measured; {self._advice()}"
        if self.state == "not measured":
            return f"{text}: not measured, because the layer did not run in training mode or its {self.measure} was not finite"
        return f"{text}: {self.state}, with {self.measured:.3f} measured at {number}"

    __repr__ = __str__

    def _advice(self) -> str:
        """Return the changes that help while the number is at a bound."""
        sparser = self.measured < self.target
        if sparser and self.measure == "zeros" and self.measured <= NO_ZEROS:
            return "its activations are never exactly 0, as after Tanh, GELU or SiLU: use measure='hoyer'"
        if self.p is None or self.scale is None:
            more = f"widen the bounds of {self.name}, train longer" if self.responds else "choose another regularizer"
            return f"{more}, or choose another target"
        return self._advice_for_sparseout(sparser, self.p, self.scale)

    def _advice_for_sparseout(self, sparser: bool, p: float, scale: LayerScale) -> str:
        """Return the changes that help a Sparseout layer, whose noise may be too strong or too weak."""
        size = 1.0 if isinstance(scale, str) else self.rms / scale
        if 0 < size < SMALL_RMS or LARGE_RMS < size < math.inf:
            ratio = size ** (self.value - 2)  # of the noise variance to the variance under Dropout with the same p
            odds = ratio * p / (1 - p) if p < 1 else math.inf
            kind = f"its activations are {'small' if size < SMALL_RMS else 'large'} (RMS {self.rms:.2g})"
            dropout = f"Dropout with p = {odds / (1 + odds) if odds < math.inf else 1:.2g}"
            if odds >= STRONG_ODDS and ratio > 1:
                bound = "raise the lower" if sparser else "lower the upper"
                return (
                    f"{kind}, so noise with q = {self.value:.3g} is as strong as {dropout} and prevents learning: "
                    f"use scale='matched', or {bound} bound of q"
                )
            if ratio <= WEAK_RATIO:
                remedy = f"use scale='matched', or {self._change_p(sparser)}"
                return f"{kind}, so noise with q = {self.value:.3g} is as weak as {dropout}: {remedy}"
        widen = "widen the bounds of q, " if not sparser or self.bounds[0] else ""
        return f"{self._change_p(sparser)}, {widen}train longer, or choose another target"

    def _change_p(self, sparser: bool) -> str:
        if self.p_bounds:
            return f"raise the upper bound of p (now {self.p:g})" if sparser else f"lower the lower bound of p (now {self.p:g})"
        return f"{'raise' if sparser else 'lower'} p (now {self.p:g}) or control it with p=(low, high)"


@dataclasses.dataclass(frozen=True, repr=False)
class TargetReport:
    """The reports of all controlled layers. Its text is a table, with advice for each layer whose number is at a bound.

    Attributes:
        layers: a report for each target.
        loss: the training loss, if it was given to `SparsityTarget.step`, and what it was before the ramp.
    """

    layers: tuple[LayerReport, ...]
    loss: RunningLoss = dataclasses.field(default_factory=RunningLoss)

    def __getitem__(self, layer: str) -> LayerReport:
        """Return the report of a layer by name, or the report of the `"mean"`."""
        found = {entry.layer: entry for entry in self.layers}
        if layer not in found:
            raise KeyError(f"layer must be one of {', '.join(map(repr, found))}, got {layer!r}")
        return found[layer]

    def logged(self) -> dict[str, float]:
        """Return the numbers for a log: `sparsity/<layer>`, and the controlled number `q/<layer>`, by its name.

        Layers that have not run are left out.
        """
        found: dict[str, float] = {}
        for entry in self.layers:
            if math.isfinite(entry.measured):
                found |= {f"sparsity/{entry.layer}": entry.measured, f"{entry.name}/{entry.layer}": entry.value}
        return found

    @property
    def reached(self) -> bool:
        """Whether every layer was measured and is within 0.02 of its target."""
        return all(entry.reached for entry in self.layers)

    def __repr__(self) -> str:
        header, rows = self._cells()
        return "\n".join([plain_table(header, rows), *self._lines()])

    def _repr_html_(self) -> str:
        return self.page(self.headline())

    def page(self, head: str) -> str:
        """Return the table and the advice as HTML, below a line of text."""
        header, rows = self._cells()
        return page([head], [header, *rows], self._lines(), 2)

    def headline(self) -> str:
        """Return the number of targets that are reached, as a sentence."""
        reached = sum(entry.reached for entry in self.layers)
        return f"{reached} of {plural(len(self.layers), 'target')} reached"

    def _lines(self) -> list[str]:
        advice = [str(entry) for entry in self.layers if entry.state in ("at its bound", "out of reach")]
        return [*filter(None, [str(self.loss)]), *advice]

    def _cells(self) -> tuple[list[str], list[list[str]]]:
        has_p = any(entry.p is not None for entry in self.layers)
        names = list(dict.fromkeys(entry.name for entry in self.layers))
        rows = [
            [
                *(entry.label, entry.state, number(entry.target)),
                number(None if math.isnan(entry.measured) else entry.measured),
                *(number(entry.value if entry.name == name else None) for name in names),
                *([number(entry.p)] if has_p else []),
            ]
            for entry in self.layers
        ]
        header = ["layer", "state", "target", self.layers[0].measure, *names, *(["p"] if has_p else [])]
        return header, rows


class Reporting:
    """Shows an object by its `report()`: in short as text, and as a table in a notebook."""

    steps: int

    def report(self) -> TargetReport:
        """Return the report."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__} after {plural(self.steps, 'step')}: {self.report().headline()}"

    def _repr_html_(self) -> str:
        return self.report().page(repr(self))
