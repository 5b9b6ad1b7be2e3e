"""Measures of sparsity: pure functions of a tensor.

A measure uses the magnitudes `c = |x|` along `dim`, which holds the units of one sample unless the docstring says samples, and
returns one number per vector. Larger means sparser, except for `participation_ratio`, which counts active units. Magnitudes are
first divided by their maximum, so no square overflows or underflows. Sums are in float32, or in float64 for float64 input.

An all-zero vector has the largest sparsity: it scores 1 in every measure. The sparsity of a vector of one unit is undefined:
`hoyer` is 0 / 0 and returns NaN. docs/measures.md lists, with proofs, which of the six criteria of Hurley and Rickard (2009) each
measure satisfies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sparseout.checks import check_number

__all__ = [
    "dead_units",
    "gini",
    "hoyer",
    "kurtosis",
    "lifetime_sparseness",
    "participation_ratio",
    "treves_rolls",
    "zeros",
]

TOLERANCE = 0.02  # largest distance of a sparsity from its target that counts as reached

Dim = int | Sequence[int]


def hoyer(x: Tensor, dim: Dim = -1) -> Tensor:
    """`(sqrt(d) - |x|_1 / |x|_2) / (sqrt(d) - 1)`: 0 if all units are equally active, 1 if a single unit is active.

    Args:
        x: activations, real.
        dim: dimension of the `d` units of a vector, or dimensions to flatten into one.

    Returns:
        Values in [0, 1] of the shape of `x` without `dim`; 1 for an all-zero vector, NaN for one unit.

    Source: Hoyer (2004), *Non-negative matrix factorization with sparseness constraints*, JMLR 5.

    >>> hoyer(torch.tensor([[0.0, 5.0, 0.0, 0.0], [1.0, 1.0, -1.0, 1.0], [0.0, 0.0, 0.0, 0.0]]))
    tensor([1., 0., 1.])
    """
    c, empty = _magnitudes(x, dim)
    root = c.shape[-1] ** 0.5
    if root == 1:
        return torch.full_like(c[..., 0], torch.nan)
    score = 1 - (c.sum(-1) / c.square().sum(-1).sqrt() - 1) / (root - 1)
    return _with_empty(score.clamp(0, 1), empty)


def gini(x: Tensor, dim: Dim = -1) -> Tensor:
    """`1 - 2 sum_k c_(k) / |c|_1 (d - k + 1/2) / d` over the sorted magnitudes `c_(1) <= ... <= c_(d)`.

    This is the Gini index of inequality: 0 if all units are equally active, `1 - 1/d` if a single unit is active.

    Args:
        x: activations, real.
        dim: dimension of the `d` units of a vector, or dimensions to flatten into one.

    Returns:
        Values in [0, 1 - 1/d] of the shape of `x` without `dim`; 1 for an all-zero vector.

    Source: Hurley and Rickard (2009), *Comparing measures of sparsity*, table I.

    >>> gini(torch.tensor([[0.0, 0.0, 0.0, 5.0], [1.0, 1.0, 1.0, 1.0]]))
    tensor([0.7500, 0.0000])
    """
    c, empty = _magnitudes(x, dim)
    d = c.shape[-1]
    weights = (torch.arange(d, 0, -1, dtype=c.dtype, device=c.device) - 0.5) / d
    score = 1 - 2 * (c.sort(-1).values * weights).sum(-1) / c.sum(-1)
    return _with_empty(score.clamp(0, 1), empty)


def zeros(x: Tensor, dim: Dim = -1, tol: float = 0.0) -> Tensor:
    """`#{i: |x_i| <= tol} / d`: the fraction of units that are zero. A negative value is not near zero.

    Args:
        x: activations, real.
        dim: dimension of the `d` units of a vector, or dimensions to flatten into one.
        tol: largest magnitude that counts as zero, in the units of `x`; at least 0.

    Returns:
        Values in [0, 1] of the shape of `x` without `dim`.

    >>> zeros(torch.tensor([0.0, -3.0, 0.01, 2.0]))
    tensor(0.2500)
    >>> zeros(torch.tensor([0.0, -3.0, 0.01, 2.0]), tol=0.1)
    tensor(0.5000)
    """
    units = _units_last(x, dim)
    return (units.abs() <= _check_tol(tol)).to(units.dtype).mean(-1)


def kurtosis(x: Tensor, dim: Dim = -1) -> Tensor:
    """`sum x^4 / (sum x^2)^2`: `1/d` if all units are equally active, 1 if a single unit is active.

    This is a raw fourth moment about zero. Unlike the kurtosis of statistics, it has no factor `d` and subtracts no mean.

    Args:
        x: activations, real.
        dim: dimension of the `d` units of a vector, or dimensions to flatten into one.

    Returns:
        Values in [1/d, 1] of the shape of `x` without `dim`; 1 for an all-zero vector.

    Source: Hurley and Rickard (2009), table I, `kappa_4`.

    >>> kurtosis(torch.tensor([[0.0, 0.0, 0.0, 5.0], [1.0, 1.0, 1.0, 1.0]]))
    tensor([1.0000, 0.2500])
    """
    c, empty = _magnitudes(x, dim)
    squares = c.square()
    return _with_empty(squares.square().sum(-1) / squares.sum(-1).square(), empty)


def treves_rolls(x: Tensor, dim: Dim = -1) -> Tensor:
    """`1 - (sum |x| / d)^2 / (sum x^2 / d)`: 0 if all units are equally active, `1 - 1/d` if a single unit is active.

    This is one minus the activity ratio of Treves and Rolls, so larger means sparser. It is an increasing function of Hurley and
    Rickard's pq-mean (p = 1, q = 2) and satisfies all six of their criteria.

    Args:
        x: activations, real.
        dim: dimension of the `d` units of a vector, or dimensions to flatten into one.

    Returns:
        Values in [0, 1 - 1/d] of the shape of `x` without `dim`; 1 for an all-zero vector.

    Source: Treves and Rolls (1991), *What determines the capacity of autoassociative memories in the brain?*, Network 2;
    Willmore and Tolhurst (2001), *Characterizing the sparseness of neural codes*, Network 12.

    >>> treves_rolls(torch.tensor([[0.0, 0.0, 0.0, 5.0], [1.0, 1.0, 1.0, 1.0]]))
    tensor([0.7500, 0.0000])
    """
    c, empty = _magnitudes(x, dim)
    return _with_empty((1 - c.mean(-1).square() / c.square().mean(-1)).clamp(0, 1), empty)


def participation_ratio(x: Tensor, dim: Dim = -1) -> Tensor:
    """`(sum x^2)^2 / sum x^4 = 1 / kurtosis(x)`: the number of active units; larger means denser.

    Args:
        x: activations, real.
        dim: dimension of the `d` units of a vector, or dimensions to flatten into one.

    Returns:
        Values in [1, d], in units, of the shape of `x` without `dim`; 1 for an all-zero vector.

    Source: Bell and Dean (1970), *Atomic vibrations in vitreous silica*, Discussions of the Faraday Society 50.

    >>> participation_ratio(torch.tensor([[0.0, 0.0, 2.0, 2.0], [1.0, 1.0, 1.0, 1.0]]))
    tensor([2., 4.])
    """
    return 1 / kurtosis(x, dim)


def dead_units(x: Tensor, dim: Dim = 0, tol: float = 0.0) -> Tensor:
    """`all(|x_i| <= tol)` over the samples: whether each unit is never active. The mean is the fraction of dead units.

    Args:
        x: activations, real.
        dim: dimension of the samples, or dimensions to flatten into one.
        tol: largest magnitude that counts as zero, in the units of `x`; at least 0.

    Returns:
        A bool tensor of the shape of `x` without `dim`.

    >>> dead_units(torch.tensor([[0.0, 1.0], [0.0, 0.0]]))
    tensor([ True, False])
    """
    return (_units_last(x, dim).abs() <= _check_tol(tol)).all(-1)


def lifetime_sparseness(x: Tensor, dim: Dim = 0) -> Tensor:
    """`1 - (sum |x| / n)^2 / (sum x^2 / n)` over `n` samples: the selectivity of each unit, `treves_rolls` along the samples.

    Args:
        x: activations, real.
        dim: dimension of the samples, or dimensions to flatten into one.

    Returns:
        Values in [0, 1 - 1/n] of the shape of `x` without `dim`; 1 for a unit that is never active.

    Source: Willmore and Tolhurst (2001), *Characterizing the sparseness of neural codes*, Network 12.

    >>> lifetime_sparseness(torch.tensor([[1.0, 0.0], [1.0, 4.0]]))
    tensor([0.0000, 0.5000])
    """
    return treves_rolls(x, dim)


def _units_last(x: Tensor, dim: Dim) -> Tensor:
    """Return `x` in float32 or float64 with the units of each vector in the last dimension."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch.Tensor, got {type(x).__name__}")
    if x.is_complex():
        raise TypeError("x must be real, got a complex tensor: use its magnitudes, x.abs()")
    dims = (dim,) if isinstance(dim, int) else tuple(dim)
    if not dims or any(not -x.dim() <= d < x.dim() for d in dims):
        raise ValueError(f"dim must name dimensions of x, which has {x.dim()}, got {dim!r}")
    if len({d % x.dim() for d in dims}) < len(dims):
        raise ValueError(f"dim must name each dimension once, got {dim!r}")
    last = range(-len(dims), 0)
    units = x.movedim(dims, tuple(last)).flatten(-len(dims))
    if units.shape[-1] == 0:
        raise ValueError(f"dim must hold at least one unit, got {dim!r} of a tensor of shape {tuple(x.shape)}")
    return units if units.dtype == torch.float64 else units.float()


def _magnitudes(x: Tensor, dim: Dim) -> tuple[Tensor, Tensor]:
    """Return the magnitudes of each vector divided by their maximum, units last, and a mask of the all-zero vectors."""
    c = _units_last(x, dim).abs()
    largest = c.amax(-1, keepdim=True)
    empty = largest == 0
    return c / largest.masked_fill(empty, 1), empty.squeeze(-1)


def _with_empty(score: Tensor, empty: Tensor) -> Tensor:
    return score.masked_fill(empty, 1)


def _check_tol(tol: float) -> float:
    return check_number("tol", tol, 0.0, math.inf, "a number of at least 0")
