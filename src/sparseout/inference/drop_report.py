"""The report of `drop_dead`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from sparseout.inference.report import Refusal, grouped
from sparseout.notebook import page


class Dropped(NamedTuple):
    """Units that were removed between two linear layers.

    `first` and `second` are the names of the layers, `units` the number of units there were, `removed` their indices among
    these, and `samples` the number of samples in which none of them fired.
    """

    first: str
    second: str
    units: int
    removed: tuple[int, ...]
    samples: int


@dataclass(frozen=True, repr=False)
class DropReport:
    """The changes that `drop_dead` made. Printing it shows a line for each pair of layers.

    Attributes:
        model: the smaller model.
        dropped: the removed units, by pair of layers.
        difference: largest absolute difference between the outputs before and after on the held-out batches.
        largest: largest magnitude of the outputs there.
        held_out: number of held-out batches.
        refused: layers before which no unit was removed, with the reasons.
        copied: whether `model` is a copy.
    """

    model: nn.Module
    dropped: tuple[Dropped, ...]
    difference: float
    largest: float
    held_out: int
    refused: tuple[Refusal, ...]
    copied: bool

    def __repr__(self) -> str:
        lines = [self._head()]
        lines += [
            f"{first} -> {second}: {len(units)} of {count} units not seen to fire in {samples} samples"
            for first, second, count, units, samples in self.dropped
        ]
        return "\n".join([*lines, *([self._price()] if self.dropped else []), *grouped(self.refused)])

    def _repr_html_(self) -> str:
        rows = [
            (f"{each.first} -> {each.second}", f"{len(each.removed)} of {each.units}", str(each.samples)) for each in self.dropped
        ]
        header = ("layers", "units not seen to fire", "in samples")
        notes = [self._price()] if rows else []
        return page([self._head()], [header, *rows] if rows else [], [*notes, *grouped(self.refused)])

    def _head(self) -> str:
        removed = sum(len(each.removed) for each in self.dropped)
        return f"{removed} units removed" + (" in a copy: use report.model" if self.copied and removed else "")

    def _price(self) -> str:
        batches = "batch" if self.held_out == 1 else f"{self.held_out} batches"
        return f"outputs up to {self.largest:.3g} change by at most {self.difference:.3g} on the held-out {batches}"
