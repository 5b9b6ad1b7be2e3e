"""The settings of one call of the op, checked and complete, as every implementation takes them."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

from sparseout.checks import Gradient

Number: TypeAlias = Any  # a float, or a 0-d tensor

FREED = "input must keep its memory until the backward pass, but its storage was freed or resized to 0"


class Settings(NamedTuple):
    """The arguments of `sparseout.sparseout` that determine the values of a call, apart from the input and the seed.

    Attributes:
        p: drop probability in [0, 1]: a float, or in a compiled graph a 0-d float64 tensor on the CPU, read at run time.
        q: norm, at least 0: a float or a tensor, as `p` is.
        scale: `s`, positive: a float or a 0-d tensor.
        gradient: `"detached"` or `"exact"`.
        eps: positive bound of the backward factor for `q < 2`.
        shared_dims: dimensions along which one draw is shared, counted from 0.
    """

    p: Number
    q: Number
    scale: Number = 1.0
    gradient: Gradient = "detached"
    eps: float = 1e-6
    shared_dims: tuple[int, ...] = ()


def with_numbers(settings: Settings, p: Number, q: Number, scale: Number) -> Settings:
    """Return `settings` with other numbers. Unlike `_replace`, a compiler of torch 2.6 can follow it."""
    return Settings(p, q, scale, settings.gradient, settings.eps, settings.shared_dims)
