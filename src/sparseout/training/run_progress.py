"""How far a run is, as the engine reports it while the run trains."""

from __future__ import annotations

import collections
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import torch
from torch import Tensor

from sparseout.training.learner import Learner

INTERVAL = 0.5  # seconds between two reports
RECENT = 20  # steps over which a report averages the loss


class RunProgress(msgspec.Struct, frozen=True):
    """How far a run is.

    Attributes:
        epoch: current epoch, counted from 1.
        epochs: number of epochs of the run.
        step: number of completed steps of the epoch.
        steps: number of steps of the epoch.
        rate: training items per second, since the run was started or resumed.
        loss: mean training loss of the last `RECENT` steps; None if it is not finite.
        measure: measure of the sparsity.
        sparsity: mean sparsity of the regularized layers: with a target, the one that it follows, else that of the last
            evaluation; None before the first measurement.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    rate: float
    loss: float | None
    measure: str
    sparsity: float | None

    @property
    def epochs_done(self) -> float:
        """The number of completed epochs, with the completed fraction of the current one."""
        return self.epoch - 1 + self.step / self.steps


OnProgress = Callable[[RunProgress], None]


class Reporter:
    """Reports the progress of a run at most every `INTERVAL` seconds.

    It reads the losses of the steps, which waits for the device, only when it reports.

    Args:
        learner: the run.
        report: called with each report.
    """

    def __init__(self, learner: Learner, report: OnProgress) -> None:
        self._learner = learner
        self._report = report
        self._recent: collections.deque[tuple[Tensor, int]] = collections.deque(maxlen=RECENT)
        self._items = 0
        self._hoyer: float | None = None
        self._start = self._reported = time.monotonic()

    def step(self, epoch: int, step: int, steps: int, loss: Tensor, items: int) -> None:
        """Count a step.

        Args:
            epoch: current epoch.
            step: number of completed steps of the epoch.
            steps: number of steps of the epoch.
            loss: this process's share of the summed loss of the step.
            items: number of items in the step, over all processes.
        """
        self._recent.append((loss, items))
        self._items += items
        now = time.monotonic()
        if now - self._reported < INTERVAL:
            return
        self._reported = now
        config, target = self._learner.config, self._learner.target_run
        measure, sparsity = (config.target_measure, target.measured) if target else ("hoyer", self._hoyer)
        rate = self._items / (now - self._start)
        self._report(RunProgress(epoch, config.epochs, step, steps, rate, self._loss(), measure, _finite(sparsity)))

    def evaluated(self, metrics: Mapping[str, Any]) -> None:
        """Keep the sparsity of an evaluation."""
        self._hoyer = metrics.get("hoyer")

    def _loss(self) -> float | None:
        """Return the mean loss of the recent steps; of several processes, each estimates it from its own share."""
        losses, items = zip(*self._recent, strict=True)
        processes = self._learner.accelerator.num_processes
        return _finite(torch.stack(losses).sum().item() * processes / max(1, sum(items)))


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
