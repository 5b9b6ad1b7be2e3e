"""The report of `skip_zeros`: its measurements and changes, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import nn

from sparseout.notebook import page


class Refusal(NamedTuple):
    """A layer that was not measured, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class LayerSpeed:
    """One linear layer that ran on the example.

    Attributes:
        name: its name in the model.
        in_features, out_features: its shape.
        batch: rows of the largest call on the example that gets faster, or of the smallest call if none does.
        active: fraction of its inputs that are not zero, or above `cutoff` in magnitude.
        union: by batch size from 1 to 8, the fraction of units that at least one row of the batch activates.
        cold, warm: how many times faster such calls are than the best of `F.linear` and the same kernel on inputs without zeros,
            with the weights out of the cache and in it. None if the layer was not timed.
        max_batch: largest batch for which it skips zeros; larger ones get the dense product. None if it was left dense.
        cutoff: magnitude up to which its inputs count as zero.
        reason: why it was left dense; empty if it was replaced.
    """

    name: str
    in_features: int
    out_features: int
    batch: int
    active: float
    union: dict[int, float] = field(hash=False)
    cold: float | None = None
    warm: float | None = None
    max_batch: int | None = None
    cutoff: float = 0.0
    reason: str = ""

    @property
    def replaced(self) -> bool:
        """Whether the layer now skips zeros."""
        return not self.reason

    @property
    def speed(self) -> float | None:
        """The smaller of `cold` and `warm`."""
        return None if self.cold is None or self.warm is None else min(self.cold, self.warm)


@dataclass(frozen=True, repr=False)
class SkipReport:
    """The changes and measurements of `skip_zeros`. Printing it shows a table.

    Attributes:
        model: the model, with the layers that were worth it replaced by `SkipZerosLinear`.
        layers: every linear layer that ran on the example.
        refused: layers that were not measured, with the reasons.
        cold, warm: how many times faster the model runs the example than before, with its weights out of the cache and in it.
        cold_bound, warm_bound: how many times faster it would be if the replaced layers took no time and the others as much as
            before (Amdahl's law). A model exceeds this if its other layers then fit the cache.
        loss_before, loss_after: value of `loss` for the model before and after. None without `loss`.
    """

    model: nn.Module
    layers: tuple[LayerSpeed, ...]
    refused: tuple[Refusal, ...] = ()
    cold: float = 1.0
    warm: float = 1.0
    cold_bound: float = 1.0
    warm_bound: float = 1.0
    loss_before: float | None = None
    loss_after: float | None = None
    copied: bool = field(default=True)

    @property
    def replaced(self) -> tuple[str, ...]:
        """Names of the layers that now skip zeros."""
        return tuple(layer.name for layer in self.layers if layer.replaced)

    def __repr__(self) -> str:
        rows = self._rows()
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        table = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*self._heads(), *table, *self._notes()])

    def _repr_html_(self) -> str:
        return page(self._heads(), self._rows(), self._notes())

    def _heads(self) -> list[str]:
        copied = " in a copy: use report.model" if self.copied and self.replaced else ""
        lines = [f"{len(self.replaced)} of {len(self.layers)} linear layers skip zeros{copied}"]
        if self.replaced:
            for weights, speed, bound in (("cold", self.cold, self.cold_bound), ("warm", self.warm, self.warm_bound)):
                lines += [f"the model is {speed:.2f}x as fast with {weights} weights (Amdahl's bound: {bound:.2f}x)"]
        if self.loss_before is not None and self.loss_after is not None:
            change = self.loss_after - self.loss_before
            lines += [f"the loss changes from {self.loss_before:.6g} to {self.loss_after:.6g} ({change:+.3g})"]
        return lines

    def _rows(self) -> list[tuple[str, ...]]:
        """The header and a row for each replaced layer; empty if there is none."""
        layers = [layer for layer in self.layers if layer.replaced]
        if not layers:
            return []
        sizes = "/".join(map(str, sorted({size for layer in layers for size in layer.union})))
        header = ("layer", "in x out", "active", f"% of a batch of {sizes}", "batch", "cold", "warm", "up to batch")
        return [header, *map(_row, layers)]

    def _notes(self) -> list[str]:
        dense = [Refusal(layer.name, layer.reason) for layer in self.layers if layer.reason]
        return grouped([*dense, *self.refused])


def _row(layer: LayerSpeed) -> tuple[str, ...]:
    union = " ".join(f"{fraction:.0%}".removesuffix("%") for fraction in layer.union.values())
    shape = f"{layer.in_features} x {layer.out_features}"
    speeds = (f"{layer.cold:.1f}x", f"{layer.warm:.1f}x")
    return (layer.name or "the model", shape, _percent(layer.active), union, str(layer.batch), *speeds, str(layer.max_batch))


def grouped(refused: Sequence[Refusal]) -> list[str]:
    """One line for each reason, with the first three names."""
    names: dict[str, list[str]] = {}
    for name, reason in refused:
        names.setdefault(reason, []).append(name or "the model")
    more = {reason: f" and {len(each) - 3} more" if len(each) > 3 else "" for reason, each in names.items()}
    return [f"{', '.join(each[:3])}{more[reason]}: {reason}" for reason, each in names.items()]


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.0f} %"
