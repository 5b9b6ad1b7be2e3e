"""A run with a sparsity target: its `SparsityTarget`, the history of the dial and of the sparsity, and the settling time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy
from torch import Tensor, nn

from sparseout.control import SparsityTarget
from sparseout.control.settings import MEAN
from sparseout.metrics import TOLERANCE
from sparseout.records.methods import METHODS
from sparseout.records.schema import Record
from sparseout.training.config import Config

POINTS = 65  # in the history that a record keeps


class TargetRun:
    """Moves one number for all regularized layers until their mean sparsity is `config.target_sparsity`.

    It is the `dial` of the regularizer. `target_q_min` and `target_q_max` bound `q`; other dials have bounds of their own.

    Construction attaches hooks to the layers; `target.stop()` removes them.

    Args:
        config: configuration of a run with a target.
        network: the network with the layers.
        batches: held-out inputs of the network, to measure the sparsity as in evaluation; none if training measures the same.
        forward: calls the network on one of `batches`, with the weights whose sparsity is to reach the target.
    """

    def __init__(self, config: Config, network: nn.Module, batches: Sequence[Tensor], forward: Callable[[Tensor], Any]) -> None:
        self.config = config
        self.dial = str(METHODS[config.regularizer].dial)
        self.target = SparsityTarget(
            network,
            config.target_sparsity,
            measure=config.target_measure,
            mean=True,
            bounds=(config.target_q_min, config.target_q_max) if self.dial == "q" else None,
            warmup=config.target_warmup,
            ramp=config.target_ramp,
            loader=batches or None,
            forward=forward,
        )
        self._values: list[float] = []
        self._measured: list[float] = []

    def step(self) -> None:
        """Update the dial. Call this after each step of the optimizer."""
        sampled = self.target.steps % self.target.every == 0
        self.target.step()
        if sampled:
            self._values.append(self.value)
            self._measured.append(self.measured)

    @property
    def value(self) -> float:
        """The current value of the dial."""
        return self.target.report()[MEAN].value

    @property
    def measured(self) -> float:
        """The smoothed mean sparsity of the layers, as the target measures it; NaN before the first measurement."""
        return self.target.report()[MEAN].measured

    def results(self, found: Mapping[str, Any]) -> Record:
        """Return the record's `control`, for a run with the results `found`."""
        return control_results(self.config, self.target, self._values, self._measured, found)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the controller and the history."""
        return {"target": self.target.state_dict(), "value": self._values, "measured": self._measured}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a `state_dict`."""
        self.target.load_state_dict(state["target"])
        self._values, self._measured = list(state["value"]), list(state["measured"])


def control_results(
    config: Config, target: SparsityTarget, values: Sequence[float], measured: Sequence[float], found: Mapping[str, Any]
) -> Record:
    """Return the record's `control`.

    `achieved` is the measure on the test data, averaged over `layers`, those of the target; None if it is missing for one.
    `value` is the final value of `dial`. `course` has the values and the smoothed measurements at evenly spaced times.

    Args:
        config: configuration of the run.
        target: its target at the end of training, for the mean of its layers.
        values: the values of the dial during training.
        measured: the smoothed measurements at the same times.
        found: the results of the run.
    """
    achieved = [found["layers"].get(name, {}).get(config.target_measure) for name in target.layers]
    return {
        "control": {
            "achieved": None if None in achieved else sum(achieved) / len(achieved),
            "dial": str(METHODS[config.regularizer].dial),
            "value": target.report()[MEAN].value,
            "settled": settled(measured, config.target_sparsity),
            "out_of_reach": target.report()[MEAN].out_of_reach,
            "course": {"value": _points(values), "measured": _points(measured)},
            "layers": list(target.layers),
        }
    }


def settled(measured: Sequence[float], target: float) -> float:
    """Return the fraction of training after which the smoothed measurements stayed within 0.02 of the target.

    It is 1 if the last measurement is out of tolerance, or if there is none.

    >>> settled([0.4, 0.5, 0.47, 0.49], 0.5)
    0.75
    """
    # NaN, a missing measurement, is out of tolerance.
    close = numpy.abs(numpy.array(measured) - target) <= TOLERANCE
    if not close.size:
        return 1.0
    missed = numpy.flatnonzero(~close)
    return round((int(missed[-1]) + 1) / len(close), 4) if len(missed) else 0.0


def _points(values: Sequence[float]) -> list[float]:
    """Interpolate `values` at `POINTS` evenly spaced times, with 5 significant digits."""
    times = numpy.linspace(0, len(values) - 1, POINTS)
    return [float(f"{value:.5g}") for value in numpy.interp(times, numpy.arange(len(values)), values).tolist()]
