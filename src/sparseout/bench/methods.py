"""What each way to sparse activations or weights adds to a training step, and k-winners compared with `torch.topk`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparseout import regularizers
from sparseout.bench.models import MODELS, Example
from sparseout.bench.op import P, Row
from sparseout.bench.steps import Step
from sparseout.bench.timing import Clock, Spread, alternate, load, spread_columns
from sparseout.layers import Sparseout

COLUMNS = (
    *("case", "method", "q", *spread_columns("milliseconds", "ms"), *spread_columns("added_ms", "added")),
    *(*spread_columns("ratio_to_first", "ratio"), "rounds", "load"),
)
STRENGTH = 1e-4
UNITS, OUTPUTS, BATCH = 256, 512, 128
K, SHAPE = 0.1, (128, 2048)  # of the comparison with `torch.topk`


@dataclasses.dataclass(frozen=True)
class Method:
    """A name, and the norm `q` if the method has one."""

    name: str
    q: float | None = None


def _decoder() -> nn.Linear:
    return nn.Linear(UNITS, OUTPUTS)


# Layers on the hidden units of the autoencoder.
ON_UNITS: Mapping[Method, Callable[[], nn.Module]] = {
    Method("none"): nn.Identity,
    Method("Dropout"): lambda: nn.Dropout(P),
    Method("Sparseout", 1.5): lambda: Sparseout(P, 1.5),
    Method("Sparseout", 2.0): lambda: Sparseout(P, 2.0),
    Method("Standout"): regularizers.Standout,
    Method("HardConcrete"): lambda: regularizers.HardConcrete(STRENGTH, UNITS),
    Method("HardConcrete, per sample"): lambda: regularizers.HardConcrete(STRENGTH, UNITS, per_sample=True),
    Method("L1"): lambda: regularizers.L1(STRENGTH),
    Method("TransformedL1"): lambda: regularizers.TransformedL1(STRENGTH),
    Method("HoyerSquare"): lambda: regularizers.HoyerSquare(STRENGTH),
    Method("KLTarget"): lambda: nn.Sequential(nn.Sigmoid(), regularizers.KLTarget(STRENGTH)),  # needs bounded units
    Method("DeCov"): lambda: regularizers.DeCov(STRENGTH),
    Method("Parsimonious"): lambda: regularizers.Parsimonious(STRENGTH, UNITS),
    Method("KWinners"): lambda: regularizers.KWinners(K),
    Method("BatchKWinners"): lambda: regularizers.BatchKWinners(K),
    Method("LifetimeWinners"): lambda: regularizers.LifetimeWinners(K),
}

# Linear layers with noise or gates, 256 to 512.
LINEAR: Mapping[Method, Callable[[], nn.Module]] = {
    Method("none"): _decoder,
    Method("Dropout"): lambda: nn.Sequential(nn.Dropout(P), _decoder()),
    Method("Sparseout", 1.5): lambda: nn.Sequential(Sparseout(P, 1.5), _decoder()),
    Method("Sparseout", 2.0): lambda: nn.Sequential(Sparseout(P, 2.0), _decoder()),
    Method("Bridgeout, per sample", 1.5): lambda: regularizers.Bridgeout(UNITS, OUTPUTS, p=P, q=1.5),
    Method("Bridgeout, per batch", 1.5): lambda: regularizers.Bridgeout(UNITS, OUTPUTS, p=P, q=1.5, draws="batch"),
    Method("Shakeout"): lambda: regularizers.Shakeout(UNITS, OUTPUTS, p=P),
    Method("HardConcrete"): lambda: nn.Sequential(regularizers.HardConcrete(STRENGTH, UNITS), _decoder()),
}


def _features() -> tuple[Tensor, Tensor]:
    return torch.randn(BATCH, UNITS).relu(), torch.randn(BATCH, OUTPUTS)


STEPS: Mapping[str, tuple[Example, Mapping[Method, Callable[[], nn.Module]]]] = {
    "autoencoder": (MODELS["autoencoder"], ON_UNITS),
    "linear": (Example(lambda layer: layer(), _features, F.mse_loss), LINEAR),
}
TOPK = "topk"
CASES = (*STEPS, TOPK)


class MethodStep(Step):
    """A training step of one model with one method; the loss includes the method's penalty if it has one."""

    def __init__(self, example: Example, layer: Callable[[], nn.Module], device: torch.device) -> None:
        super().__init__(example, layer, device)
        self.has_penalty = any(isinstance(module, regularizers.Penalty) for module in self.model.modules())

    def total_loss(self) -> Tensor:
        loss = super().total_loss()
        return loss + regularizers.penalty(self.model) if self.has_penalty else loss


class SelectionPass:
    """A selection of the largest tenth of each vector: forward without autograd, or forward and backward."""

    def __init__(self, select: Callable[[Tensor], Tensor], backward: bool, device: torch.device) -> None:
        torch.manual_seed(0)
        self.select, self.backward, self.clock = select, backward, Clock(device)
        self.x = torch.randn(SHAPE, device=device, requires_grad=backward)
        self.gradient = torch.ones_like(select(self.x))

    def __call__(self) -> float:
        """Run the pass and return its seconds."""
        self.x.grad = None
        start = self.clock.mark()
        with torch.set_grad_enabled(self.backward):
            selected = self.select(self.x)
        if self.backward:
            selected.backward(self.gradient)
        return self.clock.seconds(start, self.clock.mark())


def measure(case: str, device: torch.device, seconds: float) -> list[Row]:
    """Time the methods of `case` in turns, for about `seconds`; return a row for each.

    `added_ms` and `ratio_to_first` compare each method with the first one, in the same round.
    """
    if case == TOPK:
        count = round(K * SHAPE[-1])
        selections = {
            Method("torch.topk"): lambda x: x.topk(count, sorted=False).values,
            Method("k_winners"): lambda x: regularizers.k_winners(x, count),
        }
        return [
            row
            for name, backward in (("topk, forward", False), ("topk, both", True))
            for row in _rows(name, {m: SelectionPass(f, backward, device) for m, f in selections.items()}, seconds / 2)
        ]
    example, layers = STEPS[case]
    return _rows(case, {method: MethodStep(example, layer, device) for method, layer in layers.items()}, seconds)


def _rows(case: str, contenders: Mapping[Method, Callable[[], float]], seconds: float) -> list[Row]:
    for contender in contenders.values():
        contender()
        contender()
    times = alternate(contenders, seconds)
    first = times[next(iter(contenders))]
    return [
        {
            **{"case": case, "method": method.name, "q": method.q, "rounds": len(taken), "load": load()},
            **Spread.of([1e3 * time for time in taken]).columns("milliseconds", "ms"),
            **_added(taken, first).columns("added_ms", "added"),
            **Spread.of_ratios(taken, first).columns("ratio_to_first", "ratio"),
        }
        for method, taken in times.items()
    ]


def _added(taken: Sequence[float], first: Sequence[float]) -> Spread:
    """Return the spread of the differences within each round, in milliseconds."""
    return Spread.of([1e3 * (time - base) for time, base in zip(taken, first, strict=True)])
