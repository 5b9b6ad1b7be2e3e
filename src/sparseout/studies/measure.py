"""The sparsity of a model's regularised layers over a test set, batch by batch."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from sparseout import metrics

PROFILE = 65


class LayerMeasures:
    """Means over the vectors seen: Hoyer sparseness, fraction of zeros, activity by rank, and RMS over all elements."""

    def __init__(self) -> None:
        self.sums = {"hoyer": 0.0, "zeros": 0.0, "squares": 0.0}
        self.ranked = numpy.zeros(0)
        self.vectors = self.zero_vectors = self.units = 0

    def add(self, activations: Tensor) -> None:
        """Take the vectors `(..., units)` of a batch into account."""
        vectors = activations.detach().flatten(0, -2).double()
        if not self.units:
            self.units = vectors.shape[-1]
            self.ranked = numpy.zeros(self.units)
        ranked = vectors.abs().sort(-1, descending=True).values
        self.ranked += (ranked / ranked[:, :1].clamp_min(torch.finfo(ranked.dtype).tiny)).sum(0).cpu().numpy()
        self.vectors += len(vectors)
        self.zero_vectors += int((vectors == 0).all(-1).sum())
        self.sums["hoyer"] += metrics.hoyer(vectors).sum().item()
        self.sums["zeros"] += metrics.zeros(vectors).sum().item()
        self.sums["squares"] += vectors.square().sum().item()

    def result(self) -> dict[str, Any]:
        """The means, in float64, with how many vectors they are of and how many of those were all zero.

        `profile` has the magnitude of the most active unit, of the next and so on to the least active one, relative to the first:
        means over the vectors at `PROFILE` evenly spaced ranks.
        """
        ranks = numpy.linspace(0, self.units - 1, PROFILE)
        profile = numpy.interp(ranks, numpy.arange(self.units), self.ranked / self.vectors)
        return {
            "hoyer": self.sums["hoyer"] / self.vectors,
            "zeros": self.sums["zeros"] / self.vectors,
            "rms": math.sqrt(self.sums["squares"] / (self.vectors * self.units)),
            "units": self.units,
            "vectors": self.vectors,
            "zero_vectors": self.zero_vectors,
            "profile": [round(value, 5) for value in profile.tolist()],
        }


@contextlib.contextmanager
def measuring(model: nn.Module, names: list[str]) -> Iterator[dict[str, LayerMeasures]]:
    """Measure the clean inputs of the layers called `names` while the context lasts."""
    layers = {name: LayerMeasures() for name in names}
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(lambda _, inputs, measures=measures: measures.add(inputs[0]))
        for name, measures in layers.items()
    ]
    try:
        yield layers
    finally:
        for hook in hooks:
            hook.remove()


def results(layers: dict[str, LayerMeasures]) -> dict[str, Any]:
    """The record's `hoyer`, `zeros` and `rms`, means over the layers, and the layers' own measures by name."""
    each = {name: layer.result() for name, layer in layers.items()}
    means = {measure: sum(layer[measure] for layer in each.values()) / len(each) for measure in ("hoyer", "zeros", "rms")}
    return {**means, "layers": each}
