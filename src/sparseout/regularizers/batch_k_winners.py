"""Keep the largest activations of a whole batch."""

from __future__ import annotations

import torch
from torch import Tensor

from sparseout.regularizers.k_winners import Selection, check_k, k_winners, number_of
from sparseout.regularizers.penalty import check_dim, is_recomputing

MOMENTUM = 0.1  # weight of a batch's threshold in the running mean


def batch_k_winners(input: Tensor, k: int | float, dim: int = -1, *, magnitude: bool = False) -> Tensor:
    """`y = x` for the `k B` largest elements of a batch of `B` vectors, `y = 0` for the others.

    A vector has `k` winners on average: more where its activations are large, fewer where they are small. The gradient passes
    through the kept elements.

    Args:
        input: `x`, of any shape with at least one dimension.
        k: the mean number of winners of a vector, an integer of at least 1, or a fraction of its units in (0, 1] as a float.
        dim: the dimension that holds the units.
        magnitude: compare `|x|` instead of `x`.

    Returns:
        `y`, of the shape and dtype of `input`.

    Raises:
        TypeError, ValueError: `k` is out of its range, or `input` has no dimension `dim`.

    Source: Bussmann, Leask and Nanda (2024), *BatchTopK sparse autoencoders*, arXiv:2412.06410.

    >>> batch_k_winners(torch.tensor([[3.0, 2.0], [1.0, 0.5]]), 1)
    tensor([[3., 2.],
            [0., 0.]])
    """
    k = check_k(k)
    check_dim(input, dim)
    units = input.shape[dim]
    count = number_of(k, units) * (input.numel() // max(units, 1))
    if count >= input.numel():
        return input
    return k_winners(input.reshape(-1), max(count, 1), magnitude=magnitude).reshape(input.shape)


class BatchKWinners(Selection):
    """`y = x` for the `k B` largest elements of a training batch: `batch_k_winners` as a layer.

    Evaluation must not depend on the batch: it keeps the elements above `threshold`, the running mean over training batches of
    the smallest kept element, `t <- 0.9 t + 0.1 min(kept)`. Before the first training batch it keeps the winners of the batch.

    Args:
        k: the mean number of winners of a vector, or a fraction of its units; see `batch_k_winners`.
        dim: the dimension that holds the units.
        magnitude: compare `|x|` instead of `x`, for signed activations.

    Shape:
        Input and output: any shape with at least one dimension, the same.

    >>> layer = BatchKWinners(k=0.5)
    >>> layer(torch.tensor([[3.0, 2.0], [1.0, 0.5]]))
    tensor([[3., 2.],
            [0., 0.]])
    >>> layer.eval()(torch.tensor([[1.0, 2.0]]))
    tensor([[0., 2.]])
    """

    threshold: Tensor

    def __init__(self, k: int | float, dim: int = -1, *, magnitude: bool = False) -> None:
        super().__init__(k, dim, magnitude=magnitude)
        self.register_buffer("threshold", torch.full((), torch.nan))

    def forward(self, input: Tensor) -> Tensor:
        if self.training:
            output = batch_k_winners(input, self.k, self.dim, magnitude=self.magnitude)
            if output is not input and not is_recomputing():  # a recomputed call does not count again
                self._observe(output.detach())
            return output
        known = self.threshold.isnan().logical_not()
        winners = batch_k_winners(input, self.k, self.dim, magnitude=self.magnitude)
        return torch.where(known, torch.where(self._scores(input) >= self.threshold, input, 0), winners)

    def _scores(self, x: Tensor) -> Tensor:
        return x.abs() if self.magnitude else x

    @torch.no_grad()
    def _observe(self, output: Tensor) -> None:
        smallest = torch.where(output != 0, self._scores(output), torch.inf).amin().to(self.threshold.dtype)
        after = torch.where(self.threshold.isnan(), smallest, (1 - MOMENTUM) * self.threshold + MOMENTUM * smallest)
        self.threshold.copy_(torch.where(smallest.isfinite(), after, self.threshold))
