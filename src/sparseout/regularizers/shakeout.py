"""Shakeout: Dropout that flips the signs of weights instead of removing them."""

from __future__ import annotations

import math
import sys
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparseout.checks import check_number
from sparseout.dial import Dial
from sparseout.op.functional import sparseout


def shakeout(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    p: float = 0.5,
    c: float = 0.1,
    training: bool = True,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """`u_bi = sum_j x_bj (r_bj W_ij + c (r_bj - 1) sign(W_ij)) + bias_i`, with `r = m / (1 - p)`, `m ~ Bernoulli(1 - p)`.

    A dropped unit has the weight `-c sign(W)`, a kept one `(W + c p sign(W)) / (1 - p)`. `E[u] = W x + bias`, and
    `Var[u_i] = p / (1 - p) sum_j x_j^2 (|W_ij| + c)^2`: a penalty that mixes L2, L1 and L0 on the weights. `c = 0` is Dropout on
    the inputs. One draw is made for each input unit and sample, so the layer costs two matrix products.

    As published, the sign is exact in the forward pass and replaced by `tanh` in the backward pass:
    `dL/dW_ij = sum_b dL/du_bi x_bj (r_bj + c (r_bj - 1) (1 - tanh(W_ij)^2))`.

    Args:
        input: `x`, of shape `(..., in)`.
        weight: `W`, of shape `(out, in)`.
        bias: of shape `(out,)`, without noise.
        p: drop probability in [0, 1).
        c: at least 0, in the unit of the weights.
        training: add noise; False is `F.linear`.
        generator: source of the seed; None is the default generator of the device.

    Returns:
        `u`, of shape `(..., out)`.

    Raises:
        TypeError, ValueError: an argument is out of its range.

    Source: Kang, Li and Tao (2016), arXiv:1904.06593.

    >>> shakeout(torch.ones(1, 2), torch.tensor([[1.0, -2.0]]), training=False)
    tensor([[-1.]])
    """
    p, c = _check_p(p), _check_c(c)
    if not training or p == 0:
        return F.linear(input, weight, bias)
    r = sparseout(torch.ones_like(input), p, 2.0, generator=generator)
    output = F.linear(input * r, weight, bias)
    if c == 0:
        return output
    smooth = weight.tanh()
    signs = weight.sign() + (smooth - smooth.detach())  # the value of the sign, and the derivative of tanh
    return output + c * F.linear(input * (r - 1), signs)


class Shakeout(nn.Linear):
    """`shakeout` as a linear layer: noise on its input units in training, `u = W x + bias` in evaluation.

    Args:
        in_features, out_features, bias: as in `nn.Linear`.
        p: drop probability in [0, 1).
        c: at least 0, in the unit of the weights: 0.1 to 1 times their root mean square is a range to try. 0 is Dropout.

    Shape:
        Input `(..., in_features)`, output `(..., out_features)`.

    >>> Shakeout(4, 2, p=0.5, c=0.01)
    Shakeout(in_features=4, out_features=2, bias=True, p=0.5, c=0.01)
    """

    dial: ClassVar[Dial] = Dial("c", 1e-6, 1e2, sparser="up", scale="log", step=0.2)

    def __init__(self, in_features: int, out_features: int, bias: bool = True, *, p: float = 0.5, c: float = 0.1) -> None:
        super().__init__(in_features, out_features, bias)
        self.p, self._c = _check_p(p), _check_c(c)

    @property
    def c(self) -> float:
        """The size of a dropped unit's weights."""
        return self._c

    @c.setter
    def c(self, c: float) -> None:
        self._c = _check_c(c)

    def forward(self, input: Tensor) -> Tensor:
        return shakeout(input, self.weight, self.bias, self.p, self.c, self.training)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, p={self.p:g}, c={self.c:g}"


def _check_p(p: float) -> float:
    return check_number("p", p, 0.0, math.nextafter(1.0, 0.0), "a drop probability in [0, 1)")


def _check_c(c: float) -> float:
    return check_number("c", c, 0.0, sys.float_info.max, "a finite number of at least 0")
