"""The Kullback-Leibler penalty that pulls each unit's mean activation to a small target."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from sparseout.checks import check_number
from sparseout.dial import Dial
from sparseout.regularizers.penalty import Penalty, vectors


def kl_target(input: Tensor, rho: float = 0.05, dim: int = -1) -> Tensor:
    """`R = sum_j rho log(rho / r_j) + (1 - rho) log((1 - rho) / (1 - r_j))`, with `r_j = mean_b x_bj`.

    The gradient is `(-rho / r_j + (1 - rho) / (1 - r_j)) / B`. Activations must lie in [0, 1], as those of a sigmoid do. `r_j` is
    kept away from 0 and 1 by the smallest difference from 1 in the dtype, where the gradient is 0.

    Args:
        input: `x` in [0, 1], of any shape with at least one dimension.
        rho: the target of each unit's mean, in (0, 1).
        dim: the dimension that holds the units `j`.

    Returns:
        A scalar; 0 for an empty batch.

    Raises:
        ValueError: `rho` is not in (0, 1), or `input` is not in [0, 1]. On a GPU the latter is an asynchronous assertion.

    Source: Ng (2011), *Sparse autoencoder*, CS294A lecture notes.

    >>> kl_target(torch.tensor([[0.05, 0.5], [0.05, 0.5]]))
    tensor(0.4946)
    """
    _check_rho(rho)
    x = vectors(input, dim)
    _check_bounded(x)
    if not x.numel():
        return x.sum()
    margin = torch.finfo(x.dtype).eps
    mean = x.mean(0).clamp(margin, 1 - margin)
    return (rho * (math.log(rho) - mean.log()) + (1 - rho) * (math.log1p(-rho) - torch.log1p(-mean))).sum()


class KLTarget(Penalty):
    """`y = x`, with the term `strength * sum_j KL(rho || mean_b x_bj)`: `kl_target` as a layer; see `Penalty`.

    The mean over the batch lies inside the logarithm, so the term of a batch is not the mean of its parts' terms: gradient
    accumulation and several ranks use the mean of each part.

    Args:
        strength: factor of the term, at least 0. 0.1 to 3 are usual.
        rho: the target of each unit's mean activation, in (0, 1); `SparsityTarget` moves it.
        dim: the dimension that holds the units.

    >>> KLTarget(1.0, rho=0.1)
    KLTarget(strength=1, rho=0.1)
    """

    dial: ClassVar[Dial] = Dial("rho", 1e-4, 0.5, sparser="down", scale="log", step=0.2)

    def __init__(self, strength: float, rho: float = 0.05, dim: int = -1) -> None:
        super().__init__(strength, dim)
        self.rho = rho

    @property
    def rho(self) -> float:
        """The target of each unit's mean activation."""
        return self._rho

    @rho.setter
    def rho(self, rho: float) -> None:
        self._rho = _check_rho(rho)

    def value(self, input: Tensor) -> Tensor:
        return kl_target(input, self.rho, self.dim)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rho={self.rho:g}"


def _check_rho(rho: float) -> float:
    return check_number("rho", rho, math.ulp(0.0), math.nextafter(1.0, 0.0), "a mean activation in (0, 1)")


def _check_bounded(x: Tensor) -> None:
    bounded = ((x >= 0) & (x <= 1)).all()
    if torch.compiler.is_compiling() or not x.is_cpu:
        torch._assert_async(bounded)
    elif not bounded:
        low, high = x.detach().aminmax()
        raise ValueError(
            f"input must lie in [0, 1], got values from {low.item():g} to {high.item():g}: the penalty is for bounded units such "
            "as a sigmoid's; l1 and hoyer_square are for others"
        )
