"""A run that is driven to a sparsity: its `SparsityTarget`, the course that it took, and when it had settled."""

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

POINTS = 65  # of the course that a record keeps


class TargetRun:
    """Drives the mean over the Sparseout layers to `config.target_sparsity`, by one `q` for all.

    Args:
        config: of a run with a target.
        network: holds the layers.
        batches: that the network takes, held out of training, for the sparsity without noise; none where one layer has noise.
        forward: calls the network on one of these, with the weights whose sparsity is to reach the target.
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
        """Call after each step of the optimizer."""
        sampled = self.target.steps % self.target.every == 0
        self.target.step()
        if sampled:
            self._q.append(self.q)
            self._measured.append(self.target.report()[MEAN].measured)

    @property
    def q(self) -> float:
        """Of the layers, now."""
        return self.target.report()[MEAN].value

    @property
    def settled(self) -> float:
        """The fraction of training so far after which the smoothed measurements stayed within 0.02 of the target.

        1 where the last one did not, or there is none.
        """
        # NaN, where nothing was measured, is not close.
        close = numpy.abs(numpy.array(self._measured) - self.config.target_sparsity) <= TOLERANCE
        if not close.size:
            return 1.0
        missed = numpy.flatnonzero(~close)
        return round((int(missed[-1]) + 1) / len(close), 4) if len(missed) else 0.0

    def results(self, found: Mapping[str, Any]) -> Record:
        """The record's `control`, for a run that `found` these results.

        `achieved` is the measure on the test data, the mean over the layers that were driven, None where one has none; `q` the
        last one; `course` has `q` and what was measured, smoothed, at evenly spaced times.
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
        """The controller's state, and the course so far."""
        return {"target": self.target.state_dict(), "q": self._q, "measured": self._measured}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state_dict`."""
        self.target.load_state_dict(state["target"])
        self._q, self._measured = list(state["q"]), list(state["measured"])


def _points(values: list[float]) -> list[float]:
    places = numpy.linspace(0, len(values) - 1, POINTS)
    return [round(value, 5) for value in numpy.interp(places, numpy.arange(len(values)), values).tolist()]
