"""Training steps of models without noise, with a constant factor instead of it, with Dropout and with Sparseout."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from sparseout.bench.memory import peak_bytes
from sparseout.bench.models import MODELS, Example, Noise
from sparseout.bench.op import P, Row
from sparseout.bench.timing import Clock, Spread, alternate, load, spread_columns
from sparseout.layers import Sparseout

COLUMNS = (
    *("model", "noise", "q", *spread_columns("milliseconds", "ms"), *spread_columns("ratio_to_none", "none")),
    *(*spread_columns("ratio_to_dropout", "dropout"), "peak_mib", "rounds", "load"),
)


@dataclasses.dataclass(frozen=True)
class Contender:
    """A noise, and its `q` if it has one."""

    noise: str
    q: float | None = None

    def layer(self) -> nn.Module:
        """Return a new layer of the noise."""
        if self.noise == "none":
            return nn.Identity()
        if self.noise == CONSTANT:
            return ConstantFactor()
        return nn.Dropout(P) if self.q is None else Sparseout(P, self.q)


class ConstantFactor(nn.Module):
    """`y = x c` with a tensor `c` that is made once: the part of a step's time that any multiplicative noise takes."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = torch.ones(())

    def forward(self, input: Tensor) -> Tensor:
        if self.factor.shape != input.shape:
            self.factor = torch.ones_like(input)
        return input * self.factor


CONSTANT = "constant factor"
CONTENDERS = (
    *(Contender("none"), Contender("dropout"), Contender(CONSTANT)),
    *(Contender("sparseout", 1.5), Contender("sparseout", 2.0)),
)


class Step:
    """A training step of one model: forward, loss, backward, Adam."""

    def __init__(self, example: Example, noise: Noise, device: torch.device) -> None:
        torch.manual_seed(0)
        self.model = example.build(noise).to(device)
        self.inputs, self.targets = (tensor.to(device) for tensor in example.batch())
        self.loss, self.optimizer = example.loss, torch.optim.Adam(self.model.parameters())
        self.clock = Clock(device)

    def __call__(self) -> float:
        """Run the step and return its seconds."""
        start = self.clock.mark()
        self.optimizer.zero_grad()
        self._update()
        return self.clock.seconds(start, self.clock.mark())

    def peak(self) -> float:
        """Run the step and return the peak of the memory that it takes, in MiB: activations, gradients and temporary tensors."""
        self.optimizer.zero_grad()
        return peak_bytes(self._update, self.clock.device) / 2**20

    def _update(self) -> None:
        self.total_loss().backward()
        self.optimizer.step()

    def total_loss(self) -> Tensor:
        """Return the loss of the batch."""
        return self.loss(self.model(self.inputs), self.targets)


def measure(name: str, device: torch.device, seconds: float) -> list[Row]:
    """Time steps of the model `name` with each noise in turn, for about `seconds`; return a row for each."""
    steps = {contender: Step(MODELS[name], contender.layer, device) for contender in CONTENDERS}
    for step in steps.values():
        step()
        step()
    times = alternate(steps, seconds)
    none, dropout = times[CONTENDERS[0]], times[CONTENDERS[1]]
    peaks = {contender: step.peak() for contender, step in steps.items()}
    return [
        {
            **{"model": name, "noise": contender.noise, "q": contender.q, "peak_mib": peaks[contender]},
            **{"rounds": len(taken), "load": load()},
            **Spread.of([1e3 * time for time in taken]).columns("milliseconds", "ms"),
            **Spread.of_ratios(taken, none).columns("ratio_to_none", "none"),
            **Spread.of_ratios(taken, dropout).columns("ratio_to_dropout", "dropout"),
        }
        for contender, taken in times.items()
    ]
