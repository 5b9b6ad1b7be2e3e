"""Measures the controlled layers, in training steps and in evaluation on the batches of a loader."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from sparseout.batches import arguments
from sparseout.control.settings import has_dial
from sparseout.probe import Probe
from sparseout.probe.findings import Findings
from sparseout.probe.measures import measures_of
from sparseout.probe.selection import Layers

Measured = dict[str, dict[str, float]]


class InputProbe:
    """Measures the clean inputs of Sparseout layers, and the outputs of other layers.

    Args:
        model, layers, measure, loader, forward: see `SparsityTarget`.

    Attributes:
        layers: the modules by name, in the order of registration.
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
        if layers is None and not any(has_dial(name, module) for name, module in model.named_modules()):
            raise ValueError(f"model must have a layer with a dial, such as Sparseout, got a {type(model).__name__} without one")
        self._probe = Probe(model, has_dial if layers is None else layers, measures=(measure, "rms"))
        self.layers: dict[str, Any] = {layer.name: layer.module for layer in self._probe.layers}

    @property
    def has_loader(self) -> bool:
        """Whether there are batches to evaluate."""
        return self._loader is not None

    def start(self) -> None:
        """Discard earlier measurements and start measuring."""
        self.stop()
        self._probe.start()

    def stop(self) -> None:
        """Stop measuring and discard the measurements."""
        self._probe.stop()
        self._probe.reset()

    def take(self) -> tuple[Measured, int]:
        """Stop measuring, and return the measurements since `start`, pooled over all processes.

        Returns:
            The measure and the RMS of each layer that ran in training mode, NaN if not finite; and the number of vectors in the
            first of these layers.
        """
        findings = self._probe.findings()
        self.stop()
        return self._values(findings, "train")

    @torch.no_grad()
    def evaluate(self, layers: Iterable[str], vectors: int) -> Measured:
        """Measure `layers` in evaluation mode, without noise, on the first batches that together hold `vectors` vectors."""
        modes = {module: module.training for module in self._model.modules()}
        self._model.eval()
        try:
            # A DataLoader draws its seed from the default generator, which belongs to training.
            with torch.random.fork_rng([]), Probe(self._model, list(layers), measures=(self._measure, "rms")) as probe:
                for batch in self._loader or ():
                    self._call(batch)
                    records = probe.summary().layers
                    if records and records[0].vectors >= vectors:
                        break
                measured, _ = self._values(probe.findings(), "eval")
        finally:
            for module, mode in modes.items():
                module.training = mode
        return measured

    def _call(self, batch: Any) -> None:
        if self._forward:
            self._forward(batch)
        else:
            args, kwargs = arguments(self._model, batch)
            self._model(*args, **kwargs)

    def _values(self, findings: Findings, mode: str) -> tuple[Measured, int]:
        tallies = {name: findings.tallies.get((name, mode, None)) for name in self.layers}
        sums = {name: tally.sums for name, tally in tallies.items() if tally and tally.sums.vectors}
        values = {name: measures_of(each, self._probe.settings) for name, each in sums.items()}
        measured = {
            name: {measure: math.nan if value is None else value for measure, value in each.items()}
            for name, each in values.items()
        }
        return measured, next((each.vectors for each in sums.values()), 0)
