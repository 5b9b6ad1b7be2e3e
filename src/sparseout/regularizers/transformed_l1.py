"""The transformed L1 penalty on activations."""

from __future__ import annotations

import sys

from torch import Tensor, nn

from sparseout.checks import check_number
from sparseout.regularizers.l1 import column_norms, hold_reader
from sparseout.regularizers.penalty import Penalty, mean_over_vectors, vectors


def transformed_l1(input: Tensor, a: float = 1.0, dim: int = -1, *, weight: Tensor | None = None) -> Tensor:
    """`R = mean_b sum_j (a + 1) v_bj / (a + v_bj)` with `v_bj = w_j |x_bj|`, and `w_j = 1` unless `weight` is given.

    The gradient is `a (a + 1) w_j sign(x_bj) / (a + v_bj)^2 / B`. As `a -> 0` the penalty counts the non-zeros, as `a -> inf` it
    is `l1`. It can be escaped as `l1` can, and `weight` removes the escape.

    Args:
        input: `x`, of any shape with at least one dimension.
        a: positive; a smaller `a` is nearer to a count.
        dim: the dimension that holds the units `j`.
        weight: `w`, of shape `(units,)`.

    Returns:
        A scalar; 0 for an empty batch.

    Raises:
        ValueError: `a` is not positive.

    Source: Zhang and Xin (2018), *Minimization of transformed L1 penalty*; on feature maps arXiv:2405.19652.

    >>> import torch
    >>> transformed_l1(torch.tensor([[1.0, 0.0, -3.0]]))
    tensor(2.5000)
    """
    _check_a(a)
    sizes = vectors(input, dim).abs()
    sizes = sizes if weight is None else sizes * weight
    return mean_over_vectors(((a + 1) * sizes / (a + sizes)).sum(-1))


class TransformedL1(Penalty):
    """`y = x`, with the term `strength * mean_b sum_j (a + 1) v_bj / (a + v_bj)`: `transformed_l1` as a layer; see `Penalty`.

    Args:
        strength: factor of the term, at least 0. 1e-4 to 1e-2 are usual.
        a: positive; a smaller `a` is nearer to a count of the non-zeros.
        dim: the dimension that holds the units.
        reader: the layer that reads these activations; see `L1`.

    >>> TransformedL1(1e-3, a=0.5)
    TransformedL1(strength=0.001, a=0.5)
    """

    def __init__(self, strength: float, a: float = 1.0, dim: int = -1, *, reader: nn.Module | None = None) -> None:
        super().__init__(strength, dim)
        self.a = _check_a(a)
        self._reader = hold_reader(reader)

    @property
    def reader(self) -> nn.Module | None:
        """The layer whose weights weigh the units."""
        return self._reader[0] if self._reader else None

    def value(self, input: Tensor) -> Tensor:
        return transformed_l1(input, self.a, self.dim, weight=column_norms(self._reader))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, a={self.a:g}"


def _check_a(a: float) -> float:
    return check_number("a", a, sys.float_info.min, sys.float_info.max, "a positive finite number")
