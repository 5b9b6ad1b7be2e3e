"""Keep the `k` largest units of each vector."""

from __future__ import annotations

import collections
import math
import sys
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sparseout.checks import check_number
from sparseout.dial import Dial
from sparseout.regularizers.penalty import check_dim, is_recomputing

PERIOD = 1000  # vectors over which a duty cycle is averaged


def k_winners(input: Tensor, k: int | float, dim: int = -1, *, magnitude: bool = False, boost: Tensor | None = None) -> Tensor:
    """`y_j = x_j` for the `k` units with the largest `x_j w_j`, `y_j = 0` for the others; `w_j = 1` unless `boost` is given.

    The gradient passes through the kept units and is 0 for the others. Exactly `k` units are kept, ties included. The largest
    values win. For signed activations, such as the outputs of an LSTM, `magnitude=True` lets large negative values win too.

    Args:
        input: `x`, of any shape with at least one dimension.
        k: how many units to keep: an integer of at least 1, or a fraction of the units in (0, 1] as a float, of which
            `max(1, round(k d))` are kept. A number above `d` keeps all.
        dim: the dimension that holds the units `j`.
        magnitude: compare `|x_j|` instead of `x_j`.
        boost: positive weights `w` for the selection, of shape `(units,)`. They do not change the kept values.

    Returns:
        `y`, of the shape and dtype of `input`.

    Raises:
        TypeError, ValueError: `k` is out of its range, or `input` has no dimension `dim`.

    Source: Makhzani and Frey (2014), *k-sparse autoencoders*, arXiv:1312.5663; with boosting Ahmad and Scheinkman (2019),
    *How can we be so dense?*, arXiv:1903.11257.

    >>> k_winners(torch.tensor([[3.0, -1.0, 2.0, 1.0]]), 2)
    tensor([[3., 0., 2., 0.]])
    """
    k = check_k(k)
    check_dim(input, dim)
    kept = number_of(k, input.shape[dim])
    if kept >= input.shape[dim]:
        return input
    scores = input.detach().abs() if magnitude else input.detach()
    if boost is not None:
        shape = [1] * input.dim()
        shape[dim] = -1
        scores = scores * boost.to(input.dtype).reshape(shape)
    winners = scores.topk(kept, dim, sorted=False).indices
    return torch.where(torch.zeros_like(input, dtype=torch.bool).scatter_(dim, winners, True), input, 0)


class Selection(nn.Module):
    """A layer that keeps `k` winners, a number or a fraction; `SparsityTarget` moves `k` as a fraction."""

    dial: ClassVar[Dial] = Dial("k", 0.001, 1.0, sparser="down", step=0.15)

    def __init__(self, k: int | float, dim: int = -1, *, magnitude: bool = False) -> None:
        super().__init__()
        self._k, self.dim, self.magnitude = check_k(k), dim, bool(magnitude)

    @property
    def k(self) -> int | float:
        """How many winners are kept, or which fraction."""
        return self._k

    @k.setter
    def k(self, k: int | float) -> None:
        self._k = check_k(k)

    def extra_repr(self) -> str:
        parts = [f"k={self.k:g}", f"dim={self.dim}" if self.dim != -1 else "", "magnitude=True" if self.magnitude else ""]
        return ", ".join(filter(None, parts))


class KWinners(Selection):
    """`y_j = x_j` for the `k` winning units of each vector, `y_j = 0` for the others: `k_winners` as a layer.

    With `boost_strength > 0`, units that won rarely win more easily: the selection weighs `x_j` with
    `w_j = exp(boost_strength (k/d - duty_j))`, where `duty_j` is the share of vectors in which unit `j` won, averaged over about
    1000 vectors of training. It is the buffer `duty_cycle`. Boosting needs non-negative activations or `magnitude=True`. With
    activation checkpointing, a boosted layer must not run several times inside one checkpoint.

    Args:
        k: how many units to keep, as an integer, or as a fraction of the units. `SparsityTarget` moves it as a fraction.
        dim: the dimension that holds the units: -1 for linear, recurrent and transformer layers, 1 for convolutions, where units
            compete at each position.
        magnitude: compare `|x_j|` instead of `x_j`, for signed activations.
        k_eval: how many units to keep in evaluation. Default: `k`, so that training and evaluation are equally sparse.
        boost_strength: at least 0; 0 does not boost. 1 is usual, and lowered as training goes on.
        units: how many units a vector has; needed for boosting alone.

    Shape:
        Input and output: any shape with at least one dimension, the same.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or out of its range.

    >>> layer = KWinners(k=0.25)
    >>> layer(torch.tensor([[3.0, -1.0, 2.0, 1.0]]))
    tensor([[3., 0., 0., 0.]])
    """

    duty_cycle: Tensor
    vectors: Tensor

    def __init__(
        self,
        k: int | float,
        dim: int = -1,
        *,
        magnitude: bool = False,
        k_eval: int | float | None = None,
        boost_strength: float = 0.0,
        units: int | None = None,
    ) -> None:
        super().__init__(k, dim, magnitude=magnitude)
        self.k_eval = None if k_eval is None else check_k(k_eval, "k_eval")
        allowed = "a finite number of at least 0"
        self.boost_strength = check_number("boost_strength", boost_strength, 0.0, sys.float_info.max, allowed)
        self.units = units
        if self.boost_strength:
            if units is None:
                raise ValueError("units must be given with boost_strength, got None")
            self.register_buffer("duty_cycle", torch.zeros(units))
            self.register_buffer("vectors", torch.zeros((), dtype=torch.int64))
        # Checkpoints run again in reverse order. A layer that runs several times in one checkpoint gets these in a wrong order.
        self._boosts: collections.deque[Tensor] = collections.deque(maxlen=16)

    def forward(self, input: Tensor) -> Tensor:
        k = self.k if self.training or self.k_eval is None else self.k_eval
        if not self.boost_strength:
            return k_winners(input, k, self.dim, magnitude=self.magnitude)
        boost = self._boost(number_of(k, input.shape[self.dim]) / input.shape[self.dim])
        output = k_winners(input, k, self.dim, magnitude=self.magnitude, boost=boost)
        if self.training and not is_recomputing():
            self._count(output.detach())
        return output

    def _boost(self, density: float) -> Tensor:
        """Return the weights of the selection; for a call that a checkpoint computes again, those that it had."""
        if is_recomputing() and self._boosts:
            return self._boosts.pop()
        boost = (self.boost_strength * (density - self.duty_cycle)).exp()
        if self.training and not torch.compiler.is_compiling():
            self._boosts.append(boost)
        return boost

    @torch.no_grad()
    def _count(self, output: Tensor) -> None:
        won = (output != 0).movedim(self.dim, -1).flatten(0, -2).to(self.duty_cycle.dtype)
        seen = len(won)
        self.vectors += seen
        period = self.vectors.clamp(min(seen, PERIOD), max(seen, PERIOD)).clamp_min(1)
        self.duty_cycle.mul_(1 - seen / period).add_(won.sum(0) / period)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_boosts": collections.deque(maxlen=16)}

    def extra_repr(self) -> str:
        parts = [super().extra_repr()] + ([f"k_eval={self.k_eval:g}"] if self.k_eval is not None else [])
        return ", ".join(parts + ([f"boost_strength={self.boost_strength:g}"] if self.boost_strength else []))


def check_k(k: int | float, name: str = "k") -> int | float:
    """Return `k`, or raise unless it is an integer of at least 1 or a fraction in (0, 1]."""
    if isinstance(k, int) and not isinstance(k, bool):
        if k < 1:
            raise ValueError(f"{name} must be at least 1, or a fraction in (0, 1] as a float, got {k}")
        return k
    return check_number(name, k, math.ulp(0.0), 1.0, "an integer of at least 1 or a fraction in (0, 1]")


def number_of(k: int | float, units: int) -> int:
    """Return how many of `units` units `k` keeps."""
    return k if isinstance(k, int) else max(1, round(k * units))
