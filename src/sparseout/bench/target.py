"""Training steps with Sparseout, with and without a sparsity target."""

from __future__ import annotations

import torch

from sparseout.bench.models import MODELS
from sparseout.bench.op import P, Row
from sparseout.bench.steps import Step
from sparseout.bench.timing import Spread, alternate, load, spread_columns
from sparseout.control import SparsityTarget
from sparseout.layers import Sparseout

EVERY = 8  # a target measures every 8th step, by default; times are means over 8 steps
Q = (1.6, 1.8)  # bounds of q between which the time of the op is constant
CONTENDERS = ("none", "target")
COLUMNS = (
    *("model", "target", *spread_columns("milliseconds", "ms")),
    *(*spread_columns("ratio_to_none", "none"), "rounds", "load"),
)


class TargetStep(Step):
    """A training step of one model with Sparseout, and the step of its sparsity target if it has one."""

    def __init__(self, name: str, contender: str, device: torch.device) -> None:
        super().__init__(MODELS[name], lambda: Sparseout(P, sum(Q) / 2), device)
        self.target = SparsityTarget(self.model, 0.5, bounds=Q, every=EVERY) if contender == "target" else None

    def __call__(self) -> float:
        """Run the step and return its seconds."""
        seconds = super().__call__()
        if self.target is None:
            return seconds
        start = self.clock.mark()
        self.target.step()
        return seconds + self.clock.seconds(start, self.clock.mark())


def measure(name: str, device: torch.device, seconds: float) -> list[Row]:
    """Time steps of the model `name` with and without a target in turn, for about `seconds`; return a row for each.

    Each time is the mean of `EVERY` consecutive steps, in one of which the target measures.
    """
    steps = {contender: TargetStep(name, contender, device) for contender in CONTENDERS}
    for step in steps.values():
        for _ in range(EVERY):
            step()
    taken = alternate(steps, seconds, at_least=2 * EVERY, at_most=1000 * EVERY)
    times = {contender: _means(each) for contender, each in taken.items()}
    return [
        {
            **{"model": name, "target": contender, "rounds": len(means), "load": load()},
            **Spread.of([1e3 * mean for mean in means]).columns("milliseconds", "ms"),
            **Spread.of_ratios(means, times["none"]).columns("ratio_to_none", "none"),
        }
        for contender, means in times.items()
    ]


def _means(times: list[float]) -> list[float]:
    """Return the means of `EVERY` consecutive times each, without an incomplete last group."""
    return [sum(times[i : i + EVERY]) / EVERY for i in range(0, len(times) - EVERY + 1, EVERY)]
