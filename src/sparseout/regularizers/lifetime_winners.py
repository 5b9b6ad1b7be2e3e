"""Keep each unit's largest activations over the batch."""

from __future__ import annotations

from torch import Tensor

from sparseout.regularizers.k_winners import Selection, check_k, k_winners
from sparseout.regularizers.penalty import check_dim


def lifetime_winners(input: Tensor, k: int | float, dim: int = -1, *, magnitude: bool = False) -> Tensor:
    """`y_bj = x_bj` for the `k` vectors `b` of the batch in which unit `j` is largest, `y_bj = 0` for the others.

    Every unit is active in `k` vectors of the batch, so no unit dies. How many units a vector has is not fixed. The gradient
    passes through the kept elements.

    Args:
        input: `x`, of any shape with at least two dimensions.
        k: how many vectors to keep for each unit: an integer of at least 1, or a fraction of the batch in (0, 1] as a float.
        dim: the dimension that holds the units `j`; all others together are the batch.
        magnitude: compare `|x_bj|` instead of `x_bj`.

    Returns:
        `y`, of the shape and dtype of `input`.

    Raises:
        TypeError, ValueError: `k` is out of its range, or `input` has fewer than two dimensions.

    Source: Makhzani and Frey (2015), *Winner-take-all autoencoders*, arXiv:1409.2752.

    >>> import torch
    >>> lifetime_winners(torch.tensor([[3.0, 1.0], [1.0, 2.0], [2.0, 0.0]]), 1)
    tensor([[3., 0.],
            [0., 2.],
            [0., 0.]])
    """
    k = check_k(k)
    check_dim(input, dim)
    if input.dim() < 2:
        raise ValueError(f"input must have a batch and a dimension of units, got shape {tuple(input.shape)}")
    last = input.movedim(dim, -1)
    return k_winners(last.flatten(0, -2), k, 0, magnitude=magnitude).reshape(last.shape).movedim(-1, dim)


class LifetimeWinners(Selection):
    """`y_bj = x_bj` for the `k` vectors of a training batch in which unit `j` is largest: `lifetime_winners` as a layer.

    Evaluation is the identity, as published: the sparsity that training enforces is learnt by the layers before.

    Args:
        k: how many vectors to keep for each unit, or a fraction of the batch. 0.05 is usual.
        dim: the dimension that holds the units.
        magnitude: compare `|x_bj|` instead of `x_bj`, for signed activations.

    Shape:
        Input and output: any shape with at least two dimensions, the same.

    >>> LifetimeWinners(0.05)
    LifetimeWinners(k=0.05)
    """

    def forward(self, input: Tensor) -> Tensor:
        return lifetime_winners(input, self.k, self.dim, magnitude=self.magnitude) if self.training else input
