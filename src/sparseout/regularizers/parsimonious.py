"""The clustering penalty on activations of parsimonious representations."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sparseout.checks import check_integer, check_number
from sparseout.regularizers.penalty import Penalty, is_recomputing, vectors


def parsimonious(input: Tensor, centres: Tensor, dim: int = -1) -> tuple[Tensor, Tensor]:
    """`R = 1/2 mean_bj (x_bj - mu_(z_b) j)^2`, with `z_b = argmin_k |x_b - mu_k|`.

    The gradient is `(x - mu_z) / numel`; none goes through `mu` and `z`. The penalty pulls each vector to its nearest centre; it
    does not make activations sparse.

    Args:
        input: `x`, of any shape with at least one dimension: activations before the nonlinearity.
        centres: `mu`, of shape `(K, units)`.
        dim: the dimension that holds the units `j`.

    Returns:
        The scalar `R`, 0 for an empty batch, and `z`, an int64 tensor with one entry for each vector.

    Source: Liao, Schwing, Zemel and Urtasun (2016), *Learning deep parsimonious representations*, for samples and positions.

    >>> parsimonious(torch.tensor([[0.0, 1.0], [3.0, 3.0]]), torch.tensor([[0.0, 0.0], [3.0, 3.0]]))
    (tensor(0.1250), tensor([0, 1]))
    """
    x = vectors(input, dim)
    nearest = torch.cdist(x.detach(), centres.to(x.dtype)).argmin(1)
    return (x - centres.to(x.dtype)[nearest]).square().sum() / (2 * max(x.numel(), 1)), nearest


class Parsimonious(Penalty):
    """`y = x`, with the term `strength / 2 * mean (x - mu_z)^2`: `parsimonious` as a layer; see `Penalty`.

    The centres are the buffer `centres`. The first training batch sets them to vectors of its own, evenly spread over the batch.
    Each training call then moves those that have vectors: `mu <- (1 - decay) mean(cluster) + decay mu`.

    Args:
        strength: factor of the term, at least 0. 0.1 is usual.
        units: how many units a vector has.
        clusters: `K`. 100 is usual.
        decay: weight of the old centre, in [0, 1]. 0.1 is usual for CIFAR-10.
        dim: the dimension that holds the units.

    >>> Parsimonious(0.1, units=256, clusters=10)
    Parsimonious(strength=0.1, units=256, clusters=10)
    """

    centres: Tensor

    def __init__(self, strength: float, units: int, clusters: int = 100, decay: float = 0.1, dim: int = -1) -> None:
        super().__init__(strength, dim)
        self.clusters = check_integer("clusters", clusters, 1, 2**31 - 1)
        self.decay = check_number("decay", decay, 0.0, 1.0, "a weight in [0, 1]")
        self.units = check_integer("units", units, 1, 2**31 - 1)
        self.register_buffer("centres", torch.full((self.clusters, self.units), math.nan))
        self._used: Tensor | None = None

    def value(self, input: Tensor) -> Tensor:
        if is_recomputing() and self._used is not None:  # a checkpoint computes the call again
            return parsimonious(input, self._used, self.dim)[0]
        with torch.no_grad():
            if len(vectors(input, self.dim)):
                self._start(vectors(input, self.dim))
            used = self.centres.nan_to_num()
        term, nearest = parsimonious(input, used, self.dim)
        self._used = used
        with torch.no_grad():
            self._move(vectors(input, self.dim).to(self.centres.dtype), nearest)
        return term

    def _start(self, x: Tensor) -> None:
        places = torch.linspace(0, len(x) - 1, self.clusters, device=x.device).round().long()
        self.centres.copy_(torch.where(self.centres.isnan(), x[places].to(self.centres.dtype), self.centres))

    def _move(self, x: Tensor, nearest: Tensor) -> None:
        counts = x.new_zeros(self.clusters, 1).index_add_(0, nearest, x.new_ones(len(x), 1))
        means = torch.zeros_like(self.centres).index_add_(0, nearest, x) / counts.clamp_min(1)
        self.centres.copy_(torch.where(counts > 0, (1 - self.decay) * means + self.decay * self.centres, self.centres))

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_used": None}

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, units={self.centres.shape[1]}, clusters={self.clusters}"
