"""What the inputs of Sparseout layers are: in a step of training, and in evaluation on batches of a loader."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from sparseout.batches import arguments
from sparseout.layers import Sparseout
from sparseout.probe import Probe
from sparseout.probe.findings import Findings
from sparseout.probe.measures import measures_of
from sparseout.probe.selection import Layers

Found = dict[str, dict[str, float]]


class Inputs:
    """Measures the clean inputs of Sparseout layers.

    Args:
        model, layers, measure, loader, forward: see `SparsityTarget`.

    Attributes:
        layers: the modules, by name in the order of registration.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Layers,
        measure: str,
        loader: Iterable[Any] | None,
        forward: Callable[[Any], Any] | None,
    ) -> None:
        self._model, self._measure, self._forward = model, measure, forward
        self._loader = loader
        self._probe = Probe(model, Sparseout if layers is None else layers, measures=(measure, "rms"))
        self.layers: dict[str, Any] = {layer.name: layer.module for layer in self._probe.layers}

    @property
    def has_loader(self) -> bool:
        """Whether there are batches to evaluate."""
        return self._loader is not None

    def start(self) -> None:
        """Forget what was measured, and measure from here on."""
        self.stop()
        self._probe.start()

    def stop(self) -> None:
        """Measure no longer, and forget what was measured."""
        self._probe.stop()
        self._probe.reset()

    def take(self) -> tuple[Found, int]:
        """What was measured since `start`, in all processes, which ends with it.

        Returns:
            The measure and the RMS of each layer that ran in training mode, NaN where they are not finite, and how many vectors
            the first of them had.
        """
        findings = self._probe.findings()
        self.stop()
        return self._values(findings, "train")

    @torch.no_grad()
    def evaluate(self, layers: Iterable[str], vectors: int) -> Found:
        """The same of some layers without noise, on the loader's first batches, until they have so many `vectors`."""
        modes = {module: module.training for module in self._model.modules()}
        self._model.eval()
        try:
            # A DataLoader draws a seed from the default generator, which is training's.
            with torch.random.fork_rng([]), Probe(self._model, list(layers), measures=(self._measure, "rms")) as probe:
                for batch in self._loader or ():
                    self._call(batch)
                    records = probe.summary().layers
                    if records and records[0].vectors >= vectors:
                        break
                found, _ = self._values(probe.findings(), "eval")
        finally:
            for module, mode in modes.items():
                module.training = mode
        return found

    def _call(self, batch: Any) -> None:
        if self._forward:
            self._forward(batch)
        else:
            args, kwargs = arguments(self._model, batch)
            self._model(*args, **kwargs)

    def _values(self, findings: Findings, mode: str) -> tuple[Found, int]:
        tallies = {name: findings.tallies.get((name, mode, None)) for name in self.layers}
        sums = {name: tally.sums for name, tally in tallies.items() if tally and tally.sums.vectors}
        values = {name: measures_of(each, self._probe.settings) for name, each in sums.items()}
        found = {
            name: {measure: math.nan if value is None else value for measure, value in each.items()}
            for name, each in values.items()
        }
        return found, next((each.vectors for each in sums.values()), 0)
