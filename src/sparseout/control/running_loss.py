"""The training loss beside a sparsity target: its running mean, and what it was before the ramp."""

from __future__ import annotations

import dataclasses
import math
from typing import SupportsFloat

from torch import Tensor

HORIZON = 100  # steps over which the loss is averaged


@dataclasses.dataclass
class RunningLoss:
    """`mean <- mean + w (loss - mean)`, with `w = min(1, steps since the last reading / 100)`, and at least `1 / readings`.

    Attributes:
        mean: the running mean of the finite readings; NaN before the first.
        before: `mean` at the end of the warm-up, in which the layers act as Dropout or not at all; NaN without one.
        readings: number of finite readings.
        at: the step of the last one.
        finite: whether the last reading was finite.

    >>> loss = RunningLoss()
    >>> loss.read(2.0, step=0, in_warmup=True)
    >>> loss.read(3.0, step=50, in_warmup=False)
    >>> loss
    RunningLoss(mean=2.5, before=2.0, readings=2, at=50, finite=True)
    """

    mean: float = math.nan
    before: float = math.nan
    readings: int = 0
    at: int = 0
    finite: bool = True

    def read(self, loss: SupportsFloat, step: int, in_warmup: bool) -> None:
        """Add the loss of a step, or the mean over the steps since the last reading."""
        value = float(loss.detach() if isinstance(loss, Tensor) else loss)
        self.finite = math.isfinite(value)
        if not self.finite:
            return
        self.readings += 1
        weight = max(1 / self.readings, min(1.0, (step - self.at) / HORIZON))
        self.mean = value if self.readings == 1 else self.mean + weight * (value - self.mean)
        self.at = step
        if in_warmup:
            self.before = self.mean

    def __str__(self) -> str:
        if not self.finite:
            return "loss not finite"
        if not self.readings:
            return ""
        return f"loss {self.mean:.4g}" + ("" if math.isnan(self.before) else f", {self.before:.4g} before the ramp")
