"""How far a layer is from its sparsity target, and what to do where it is out of reach."""

from __future__ import annotations

import dataclasses

from sparseout.probe.tables import number, plain_table


@dataclasses.dataclass(frozen=True)
class Reach:
    """A layer, or the mean of all, and its target.

    Attributes:
        layer: its name.
        label: what to call it.
        measure: what is measured.
        target, measured: of the measure; NaN before the first measurement.
        q, p: of the layer now.
        missed: it is not yet within 0.02 of its target.
        out_of_reach: it lies still, with `q` at its bound.
        bounds: of `q`.
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

    @property
    def state(self) -> str:
        """In a word or three."""
        return "out of reach" if self.out_of_reach else "on its way" if self.missed else "reached"

    def __str__(self) -> str:
        text = f"{self.measure} target {self.target:g} in {self.label}"
        if not self.out_of_reach:
            return f"{text}: {self.state}, at {self.measured:.3f} with q = {self.q:.3g}"
        way = "raise p" if self.measured < self.target else "lower p"
        low, high = self.bounds
        reached = f"is beyond what q in [{low:g}, {high:g}] reached here ({self.measured:.3f})"
        return f"{text} {reached}: {way} (now {self.p:g}), widen the bounds of q, train longer, or aim elsewhere"


@dataclasses.dataclass(frozen=True, repr=False)
class Report:
    """The layers and their targets. Printing it shows a table, and what is out of reach."""

    layers: tuple[Reach, ...]

    def __getitem__(self, layer: str) -> Reach:
        """The entry of a layer, or `"mean"`."""
        found = {entry.layer: entry for entry in self.layers}
        if layer not in found:
            raise KeyError(f"{layer!r} is none of {', '.join(map(repr, found))}")
        return found[layer]

    @property
    def reached(self) -> bool:
        """Whether every layer is within 0.02 of its target."""
        return not any(entry.missed for entry in self.layers)

    def __repr__(self) -> str:
        rows = [
            [entry.label, entry.state, number(entry.target), number(entry.measured), number(entry.q), number(entry.p)]
            for entry in self.layers
        ]
        header = ["layer", "state", "target", self.layers[0].measure, "q", "p"]
        return "\n".join([plain_table(header, rows), *(str(entry) for entry in self.layers if entry.out_of_reach)])
