"""What a probe has found so far: additive, so that the findings of several ranks are those of the whole."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Sequence

from sparseout.probe.layer_record import LayerRecord
from sparseout.probe.measures import Settings
from sparseout.probe.selection import Layer
from sparseout.probe.sums import Sums

Key = tuple[str, str, int | None]


@dataclasses.dataclass
class Tally:
    """One layer in one mode, and in one of its calls where these are counted apart.

    Attributes:
        unit_dim: dimensions of the units in the last value.
        sums: over its vectors.
        calls: how many were measured.
        padding: vectors left out.
        unread: why the mask of a call does not say which of its vectors are padding.
    """

    unit_dim: tuple[int, ...] = ()
    sums: Sums = dataclasses.field(default_factory=Sums)
    calls: int = 0
    padding: int = 0
    unread: str = ""

    def add(self, other: Tally) -> None:
        """Take another's calls into account."""
        self.unit_dim = other.unit_dim or self.unit_dim
        self.sums.add(other.sums)
        self.calls += other.calls
        self.padding += other.padding
        self.unread = self.unread or other.unread


class Findings:
    """The tallies of all layers, and what was not seen.

    Attributes:
        tallies: by layer, mode and call.
        forwards, measured: how many forward passes there were, and were measured, by mode.
        functional: functions that were called without a module, by the calling module.
        unmeasurable: why values of a layer could not be measured.
        elsewhere: what ran and was not measured at all: a copy of the model.
    """

    def __init__(self) -> None:
        self.tallies: defaultdict[Key, Tally] = defaultdict(Tally)
        self.forwards: Counter[str] = Counter()
        self.measured: Counter[str] = Counter()
        self.functional: defaultdict[str, set[str]] = defaultdict(set)
        self.unmeasurable: dict[str, str] = {}
        self.elsewhere: dict[str, str] = {}

    def add(self, other: Findings) -> None:
        """Take the findings of another rank into account."""
        for key, tally in other.tallies.items():
            self.tallies[key].add(tally)
        self.forwards += other.forwards
        self.measured += other.measured
        for name, functions in other.functional.items():
            self.functional[name] |= functions
        self.unmeasurable |= other.unmeasurable
        self.elsewhere |= other.elsewhere

    def cpu(self) -> Findings:
        """The same findings on the CPU, to be sent to another rank."""
        moved = Findings()
        moved.add(self)
        for tally in moved.tallies.values():
            tally.sums = tally.sums.cpu()
        return moved

    def records(self, layers: Sequence[Layer], settings: Settings) -> tuple[LayerRecord, ...]:
        """A record for each tally with any vectors, in the order of `layers`."""
        order = {layer.name: i for i, layer in enumerate(layers)}
        found = sorted(self.tallies.items(), key=lambda item: (order[item[0][0]], item[0][1] != "train", item[0][2] or 0))
        return tuple(_record(layers[order[key[0]]], key, tally, settings) for key, tally in found if tally.sums.vectors)

    def unseen(self, layers: Sequence[Layer]) -> dict[str, str]:
        """Why activations were not measured, by layer or by the module that calls them as functions."""
        called = {name for (name, _, _), tally in self.tallies.items() if tally.sums.vectors}
        empty = {name for name, _, _ in self.tallies}
        result = {
            layer.name: "called without a vector" if layer.name in empty else "never called"
            for layer in layers
            if layer.name not in called
        }
        for name, reason in self.unmeasurable.items():
            result[name] = f"in some calls, {reason}" if name in called else reason
        for name, reason in self.elsewhere.items():
            result[name] = f"{result[name]}; {reason}" if name in result else reason
        for name, functions in sorted(self.functional.items()):
            reason = f"calls {', '.join(sorted(functions))} without a module"
            result[name] = f"{result[name]}; {reason}" if name in result else reason
        return result


def _record(layer: Layer, key: Key, tally: Tally, settings: Settings) -> LayerRecord:
    sums = tally.sums
    name, mode, call = key
    return LayerRecord(
        layer=name,
        type=type(layer.module).__name__,
        mode=mode,
        call=call,
        value=layer.value,
        unit_dim=tally.unit_dim,
        units=sums.units,
        calls=tally.calls,
        vectors=sums.vectors,
        zero_vectors=int(sums.basic["zero_vectors"]),
        single_vectors=sums.singles,
        nonfinite_vectors=int(sums.basic["nonfinite"]),
        padding=None if tally.unread else tally.padding,
        unread_mask=tally.unread or None,
        **settings.values(sums),
    )
