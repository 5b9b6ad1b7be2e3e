"""The sparsity of a network's regularised layers on held-out data: the probe's measures, and activity by rank."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from sparseout.probe import Probe
from sparseout.probe.values import plain_values

MEASURES = ("hoyer", "zeros", "rms")
RANKS = 65
SAMPLE = 2048  # vectors of a batch whose activity by rank is taken


def regularised(network: nn.Module) -> list[str]:
    """The names of the layers in the studied place: those that are an attribute `noise` of a module."""
    return [name for name, _ in network.named_modules() if name.rsplit(".", 1)[-1] == "noise"]


@contextlib.contextmanager
def measuring(network: nn.Module, profile: bool = False) -> Iterator[Measures]:
    """Measure the regularised layers' clean inputs while the context lasts, and with `profile` their activity by rank."""
    profiles = {name: Profile() for name in regularised(network)} if profile else {}
    hooks = [network.get_submodule(name).register_forward_pre_hook(taken.hook) for name, taken in profiles.items()]
    try:
        with Probe(network, regularised(network), measures=MEASURES) as probe:
            yield Measures(probe, profiles)
    finally:
        for hook in hooks:
            hook.remove()


@dataclasses.dataclass(frozen=True)
class Measures:
    """What is being measured."""

    probe: Probe
    profiles: Mapping[str, Profile]

    def results(self) -> dict[str, Any]:
        """The record's `hoyer`, `zeros` and `rms`, means over the layers, and `layers`: these by layer, with what they are of."""
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
    """Activity by rank: a vector's magnitudes in falling order, relative to its first, as means over the vectors seen."""

    def __init__(self) -> None:
        self.sums = numpy.zeros(0)
        self.vectors = 0

    def hook(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Take the input of a layer into account."""
        self.add(inputs[0])

    def add(self, activations: Tensor) -> None:
        """Take a batch's finite vectors into account, or about `SAMPLE` evenly spread ones of it where it has more."""
        activations = plain_values(activations)
        if activations.dim() == 4:  # units are the channels of one position
            activations = activations.movedim(1, -1)
        vectors = activations.detach().flatten(0, -2)
        vectors = vectors[:: max(1, -(-len(vectors) // SAMPLE))].double()
        vectors = vectors[vectors.isfinite().all(-1)]
        ranked = vectors.abs().sort(-1, descending=True).values
        relative = (ranked / ranked[:, :1].clamp_min(torch.finfo(ranked.dtype).tiny)).sum(0).cpu().numpy()
        self.sums = self.sums + relative if self.vectors else relative
        self.vectors += len(vectors)

    def result(self) -> list[float] | None:
        """The means at `RANKS` evenly spaced ranks; None where no vector was finite."""
        if not self.vectors:
            return None
        ranks = numpy.linspace(0, len(self.sums) - 1, RANKS)
        means = numpy.interp(ranks, numpy.arange(len(self.sums)), self.sums / self.vectors)
        return [round(value, 5) for value in means.tolist()]
