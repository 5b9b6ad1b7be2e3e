"""The Hoyer-Square penalty on activations."""

from __future__ import annotations

import torch
from torch import Tensor

from sparseout.regularizers.penalty import Penalty, mean_over_vectors, vectors


def hoyer_square(input: Tensor, dim: int = -1) -> Tensor:
    """`R = mean_b (sum_j |x_bj|)^2 / sum_j x_bj^2`, which lies in [1, d] for a vector of `d` units.

    With `S1 = sum |x|` and `S2 = sum x^2` the gradient is `2 sign(x) S1 / S2^2 (S2 - |x| S1) / B`. The penalty does not change
    when activations are scaled, so it cannot be escaped by scale. A vector of zeros counts as 0 and has no gradient.

    Args:
        input: `x`, of any shape with at least one dimension.
        dim: the dimension that holds the units `j`.

    Returns:
        A scalar; 0 for an empty batch.

    Source: Yang, Wen and Li (2020), *DeepHoyer*, arXiv:1908.09979, there on weights.

    >>> hoyer_square(torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 2.0, 0.0, 0.0]]))
    tensor(2.5000)
    """
    sizes = vectors(input, dim).abs()
    # Vectors are divided by their maximum, a constant, so that no square over- or underflows.
    largest = sizes.detach().amax(-1, keepdim=True) if sizes.shape[-1] else sizes.new_ones(sizes.shape[0], 1)
    sizes = sizes / torch.where(largest > 0, largest, torch.ones_like(largest))
    squares = sizes.square().sum(-1)
    return mean_over_vectors(sizes.sum(-1).square() / torch.where(squares > 0, squares, torch.ones_like(squares)))


class HoyerSquare(Penalty):
    """`y = x`, with the term `strength * mean_b (sum_j |x_bj|)^2 / sum_j x_bj^2`: `hoyer_square` as a layer; see `Penalty`.

    Args:
        strength: factor of the term, at least 0. 0.01 to 0.3, divided by the number of units, are usual.
        dim: the dimension that holds the units.

    >>> HoyerSquare(0.01, dim=1)
    HoyerSquare(strength=0.01, dim=1)
    """

    def value(self, input: Tensor) -> Tensor:
        return hoyer_square(input, self.dim)
