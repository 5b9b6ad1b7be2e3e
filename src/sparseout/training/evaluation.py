"""Sparsity of a network's regularised layers on held-out data: the probe's measures, and activity by rank."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from sparseout.probe import Probe
from sparseout.probe.selection import Value
from sparseout.probe.values import plain_values

MEASURES = ("hoyer", "zeros", "rms")
RANKS = 65
SAMPLE = 2048  # vectors per batch that enter the activity by rank


@contextlib.contextmanager
def measuring(network: nn.Module, layers: Sequence[str], profile: bool = False) -> Iterator[Measures]:
    """Measure `layers` while the context is open, and with `profile` also their activity by rank.

    The clean input of Sparseout and Dropout layers is measured, and the output of all others.

    Args:
        network: the network to run in the context.
        layers: names of its regularised layers.
        profile: whether to measure the activity by rank.
    """
    with Probe(network, layers, measures=MEASURES) as probe:
        profiles = {layer.name: Profile(layer.value) for layer in probe.layers} if profile else {}
        hooks = [network.get_submodule(name).register_forward_hook(each.hook) for name, each in profiles.items()]
        try:
            yield Measures(probe, profiles)
        finally:
            for hook in hooks:
                hook.remove()


@dataclasses.dataclass(frozen=True)
class Measures:
    """The measurements of a `measuring` context.

    Attributes:
        probe: probe of the regularised layers.
        profiles: activity by rank, by layer.
    """

    probe: Probe
    profiles: Mapping[str, Profile]

    def results(self) -> dict[str, Any]:
        """Return the record's `hoyer`, `zeros` and `rms`, means over the layers, and `layers`, the same by layer with counts."""
        layers = {}
        for record in self.probe.summary().layers:
            counts = {"units": record.units, "vectors": record.vectors, "zero_vectors": record.zero_vectors}
            layers[record.layer] = {**{measure: getattr(record, measure) for measure in MEASURES}, **counts}
            if record.layer in self.profiles and (profile := self.profiles[record.layer].result()) is not None:
                layers[record.layer]["profile"] = profile
        return {**{measure: _mean([layer[measure] for layer in layers.values()]) for measure in MEASURES}, "layers": layers}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


class Profile:
    """Activity by rank: a vector's magnitudes in descending order, relative to the largest, averaged over vectors.

    Args:
        value: what to measure in the layer: its output, or its clean input.
    """

    def __init__(self, value: Value = "output") -> None:
        self.value = value
        self.sums = numpy.zeros(0)
        self.vectors = 0

    def hook(self, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Add the value of a layer, as a forward hook."""
        self.add(output if self.value == "output" else inputs[0])

    def add(self, activations: Tensor) -> None:
        """Add the finite vectors of a batch; of a large batch, about `SAMPLE` evenly spaced ones."""
        activations = plain_values(activations)
        if activations.dim() == 4:  # the units are the channels at one position
            activations = activations.movedim(1, -1)
        vectors = activations.detach().flatten(0, -2)
        vectors = vectors[:: max(1, -(-len(vectors) // SAMPLE))].double()
        vectors = vectors[vectors.isfinite().all(-1)]
        ranked = vectors.abs().sort(-1, descending=True).values
        relative = (ranked / ranked[:, :1].clamp_min(torch.finfo(ranked.dtype).tiny)).sum(0).cpu().numpy()
        self.sums = self.sums + relative if self.vectors else relative
        self.vectors += len(vectors)

    def result(self) -> list[float] | None:
        """Return the means at `RANKS` evenly spaced ranks, or None if no vector was finite."""
        if not self.vectors:
            return None
        ranks = numpy.linspace(0, len(self.sums) - 1, RANKS)
        means = numpy.interp(ranks, numpy.arange(len(self.sums)), self.sums / self.vectors)
        return [round(value, 5) for value in means.tolist()]
