"""The DeCov penalty, which decorrelates the units of a layer."""

from __future__ import annotations

from torch import Tensor

from sparseout.regularizers.penalty import Penalty, vectors


def decov(input: Tensor, dim: int = -1) -> Tensor:
    """`R = (|C|_F^2 - |diag C|^2) / 2`, with the covariance `C = H'H / B` of the units, `H = x - mean_b x`.

    The gradient is `(2 / B) H (C - diag C)`. The penalty decorrelates units; it does not make them sparse. It is quartic in the
    scale of the activations, so it can be escaped by scale, and it grows with the square of the number of units.

    Args:
        input: `x`, of any shape with at least one dimension. `B` counts its vectors.
        dim: the dimension that holds the units.

    Returns:
        A scalar; 0 for an empty batch.

    Source: Cogswell, Ahmed, Girshick, Zitnick and Batra (2016), arXiv:1511.06068.

    >>> import torch
    >>> decov(torch.tensor([[1.0, 1.0], [-1.0, -1.0]]))
    tensor(1.)
    """
    x = vectors(input, dim)
    if not len(x):
        return x.sum()
    centred = x - x.mean(0)
    covariance = centred.t() @ centred / len(x)
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / 2


class DeCov(Penalty):
    """`y = x`, with the term `strength * (|C|_F^2 - |diag C|^2) / 2`: `decov` as a layer; see `Penalty`.

    The covariance is that of the batch, so gradient accumulation and several ranks use the covariance of each part.

    Args:
        strength: factor of the term, at least 0. 0.1 is usual for fully connected layers.
        dim: the dimension that holds the units.

    >>> DeCov(0.1)
    DeCov(strength=0.1)
    """

    def value(self, input: Tensor) -> Tensor:
        return decov(input, self.dim)
