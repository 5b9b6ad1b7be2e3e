"""The findings of a probe. They are additive: the findings of several ranks add up to the findings of the whole."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from sparseout.probe.measures import measures_of
from sparseout.probe.selection import Layer
from sparseout.probe.tally import Tally
from sparseout.probe.unit_activity import unit_activity
from sparseout.records.layer_record import LayerRecord
from sparseout.records.probe_summary import ProbeSettings

Key = tuple[str, str, int | None]


class Findings:
    """The tallies of all layers, and the activations that were not measured.

    Attributes:
        tallies: the tallies by layer, mode and call (None if calls are counted together).
        forwards, measured: the number of forward passes that ran and that were measured, by mode.
        functional: the activations and dropouts called as functions, by the calling module.
        unmeasurable: why values of a layer could not be measured, by layer.
        copy_ran: whether a copy of the model ran, which is not measured.
    """

    def __init__(self) -> None:
        self.tallies: defaultdict[Key, Tally] = defaultdict(Tally)
        self.forwards: Counter[str] = Counter()
        self.measured: Counter[str] = Counter()
        self.functional: defaultdict[str, set[str]] = defaultdict(set)
        self.unmeasurable: dict[str, str] = {}
        self.copy_ran = False

    def add(self, other: Findings) -> None:
        """Add other findings, such as those of another rank."""
        for key, tally in other.tallies.items():
            self.tallies[key].add(tally)
        self.forwards += other.forwards
        self.measured += other.measured
        for name, functions in other.functional.items():
            self.functional[name] |= functions
        self.unmeasurable |= other.unmeasurable
        self.copy_ran |= other.copy_ran

    def cpu(self) -> Findings:
        """Return a copy on the CPU, to be sent to another rank."""
        moved = Findings()
        moved.add(self)
        for tally in moved.tallies.values():
            tally.sums, tally.excitations = tally.sums.cpu(), tally.excitations.cpu()
        return moved

    def records(self, layers: Sequence[Layer], settings: ProbeSettings) -> tuple[LayerRecord, ...]:
        """Return a record for each tally that has vectors, ordered by layer, mode and call."""
        order = {layer.name: i for i, layer in enumerate(layers)}
        found = sorted(self.tallies.items(), key=lambda item: (order[item[0][0]], item[0][1] != "train", item[0][2] or 0))
        return tuple(_record(layers[order[key[0]]], key, tally, settings) for key, tally in found if tally.sums.vectors)

    def unseen(self, layers: Sequence[Layer]) -> dict[str, str]:
        """Return why activations were not measured, by layer, or by the module that calls them as functions."""
        measured = {name for (name, _, _), tally in self.tallies.items() if tally.sums.vectors}
        called = {name for name, _, _ in self.tallies}
        result = {
            layer.name: "called without a vector" if layer.name in called else "never called"
            for layer in layers
            if layer.name not in measured
        }
        for name, reason in self.unmeasurable.items():
            result[name] = f"in some calls, {reason}" if name in measured else reason
        others = [("", "a copy of the model ran, which is not measured: attach a Probe to the copy")] if self.copy_ran else []
        others += [
            (name, f"calls {', '.join(sorted(functions))} without a module")
            for name, functions in sorted(self.functional.items())
        ]
        for name, reason in others:
            result[name] = f"{result[name]}; {reason}" if name in result else reason
        return result


def _record(layer: Layer, key: Key, tally: Tally, settings: ProbeSettings) -> LayerRecord:
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
        unit_activity=unit_activity(sums, tally.excitations),
        **measures_of(sums, settings),
    )
