"""A run with a sparsity target: its `SparsityTarget`, the history of `q` and of the sparsity, and the settling time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy
from torch import Tensor, nn

from sparseout.control import SparsityTarget
from sparseout.control.settings import MEAN
from sparseout.metrics import TOLERANCE
from sparseout.records.schema import Record
from sparseout.training.config import Config

POINTS = 65  # in the history that a record keeps


class TargetRun:
    """Moves one `q` for all Sparseout layers until their mean sparsity is `config.target_sparsity`.

    Construction attaches hooks to the layers; `target.stop()` removes them.

    Args:
        config: configuration of a run with a target.
        network: the network with the layers.
        batches: held-out inputs of the network, to measure the sparsity without noise; not needed if one layer has noise.
        forward: calls the network on one of `batches`, with the weights whose sparsity is to reach the target.
    """

    def __init__(self, config: Config, network: nn.Module, batches: Sequence[Tensor], forward: Callable[[Tensor], Any]) -> None:
        bounds = (config.target_q_min, config.target_q_max)
        self.config = config
        self.target = SparsityTarget(
            network,
            config.target_sparsity,
            measure=config.target_measure,
            mean=True,
            bounds=bounds,
            warmup=config.target_warmup,
            ramp=config.target_ramp,
            loader=batches or None,
            forward=forward,
        )
        self._q: list[float] = []
        self._measured: list[float] = []

    def step(self) -> None:
        """Update `q`. Call this after each step of the optimizer."""
        sampled = self.target.steps % self.target.every == 0
        self.target.step()
        if sampled:
            self._q.append(self.q)
            self._measured.append(self.target.report()[MEAN].measured)

    @property
    def q(self) -> float:
        """The current `q` of the layers."""
        return self.target.report()[MEAN].value

    @property
    def settled(self) -> float:
        """The fraction of training after which the smoothed measurements stayed within 0.02 of the target.

        It is 1 if the last measurement is out of tolerance, or if there is none.
        """
        # NaN, a missing measurement, is out of tolerance.
        close = numpy.abs(numpy.array(self._measured) - self.config.target_sparsity) <= TOLERANCE
        if not close.size:
            return 1.0
        missed = numpy.flatnonzero(~close)
        return round((int(missed[-1]) + 1) / len(close), 4) if len(missed) else 0.0

    def results(self, found: Mapping[str, Any]) -> Record:
        """Return the record's `control`, for a run with the results `found`.

        `achieved` is the measure on the test data, averaged over the layers of the target; None if it is missing for one of them.
        `q` is the final one. `course` has `q` and the smoothed measurements at evenly spaced times.
        """
        achieved = [found["layers"].get(name, {}).get(self.config.target_measure) for name in self.target.layers]
        course = {"q": _points(self._q), "measured": _points(self._measured)}
        return {
            "control": {
                "achieved": None if None in achieved else sum(achieved) / len(achieved),
                "q": self.q,
                "settled": self.settled,
                "out_of_reach": self.target.report()[MEAN].out_of_reach,
                "course": course,
            }
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the controller and the history."""
        return {"target": self.target.state_dict(), "q": self._q, "measured": self._measured}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a `state_dict`."""
        self.target.load_state_dict(state["target"])
        self._q, self._measured = list(state["q"]), list(state["measured"])


def _points(values: list[float]) -> list[float]:
    """Interpolate `values` at `POINTS` evenly spaced times."""
    times = numpy.linspace(0, len(values) - 1, POINTS)
    return [round(value, 5) for value in numpy.interp(times, numpy.arange(len(values)), values).tolist()]
