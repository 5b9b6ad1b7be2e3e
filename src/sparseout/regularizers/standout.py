"""Standout: Dropout whose probability follows the activation."""

from __future__ import annotations

import sys
from typing import ClassVar

import torch
from torch import Tensor, nn

from sparseout.checks import check_number
from sparseout.dial import Dial
from sparseout.regularizers.draws import uniform


def standout(
    input: Tensor, alpha: float = 1.0, beta: float = 0.0, training: bool = True, *, generator: torch.Generator | None = None
) -> Tensor:
    """`y = m relu(a)` with `m ~ Bernoulli(P)`, `P = sigmoid(alpha a + beta)`; in evaluation `y = P relu(a)`.

    `E[y]` in training is `y` in evaluation. No gradient goes through `m`, and none through `P` in training. `alpha = 0`,
    `beta = 0` drops with probability 1/2, without Dropout's factor `1 / (1 - p)`.

    Args:
        input: `a`, the activations before the nonlinearity, of any shape.
        alpha: how strongly the probability follows the activation.
        beta: its offset; a lower one keeps fewer units in training.
        training: draw the mask.
        generator: source of the seed; None is the default generator of the device.

    Returns:
        `y`, of the shape and dtype of `input`.

    Source: Ba and Frey (2013), *Adaptive dropout for training deep neural networks*.

    >>> standout(torch.tensor([-1.0, 0.0, 2.0]), training=False)
    tensor([0.0000, 0.0000, 1.7616])
    """
    alpha, beta = (_check(name, value) for name, value in (("alpha", alpha), ("beta", beta)))
    x = input if input.dtype == torch.float64 else input.float()
    if not training:
        return (x.relu() * (alpha * x + beta).sigmoid()).to(input.dtype)
    kept = uniform(x.detach(), tuple(x.shape), generator) < (alpha * x.detach() + beta).sigmoid()
    return torch.where(kept, x.relu(), 0).to(input.dtype)


class Standout(nn.Module):
    """`y = m relu(a)` with `m ~ Bernoulli(sigmoid(alpha a + beta))`: `standout` as a layer, in the place of a ReLU.

    Args:
        alpha: how strongly the probability follows the activation; -2 to 2.
        beta: its offset; -3 to 3.

    Shape:
        Input and output: any shape, the same.

    >>> Standout(beta=-1.0)
    Standout(alpha=1, beta=-1)
    """

    dial: ClassVar[Dial] = Dial("beta", -10.0, 10.0, sparser="down")

    def __init__(self, alpha: float = 1.0, beta: float = 0.0) -> None:
        super().__init__()
        self.alpha, self._beta = _check("alpha", alpha), _check("beta", beta)

    @property
    def beta(self) -> float:
        """The offset of the probability."""
        return self._beta

    @beta.setter
    def beta(self, beta: float) -> None:
        self._beta = _check("beta", beta)

    def forward(self, input: Tensor) -> Tensor:
        return standout(input, self.alpha, self.beta, self.training)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha:g}, beta={self.beta:g}"


def _check(name: str, value: float) -> float:
    return check_number(name, value, -sys.float_info.max, sys.float_info.max, "a finite number")
