"""The L1 penalty on activations."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from sparseout.regularizers.penalty import Penalty, mean_over_vectors, vectors


def l1(input: Tensor, dim: int = -1, *, weight: Tensor | None = None) -> Tensor:
    """`R = mean_b sum_j w_j |x_bj|`, with `w_j = 1` unless `weight` is given.

    The gradient is `w_j sign(x_bj) / B`. Without weights the penalty can be escaped: `x -> c x` with the next layer's weights
    divided by `c` lowers it and leaves the model's output as it is. Weights `w_j = |W_:j|`, the norms of the columns of the layer
    that reads `x`, remove the escape.

    Args:
        input: `x`, of any shape with at least one dimension. `B` counts its vectors.
        dim: the dimension that holds the units `j`.
        weight: `w`, of shape `(units,)`.

    Returns:
        A scalar; 0 for an empty batch.

    Source: Tibshirani (1996) for weights; Keras' `activity_regularizer` and sparse autoencoders use it on activations.

    >>> import torch
    >>> l1(torch.tensor([[1.0, -2.0], [0.0, 3.0]]))
    tensor(3.)
    """
    sizes = vectors(input, dim).abs()
    return mean_over_vectors((sizes if weight is None else sizes * weight).sum(-1))


class L1(Penalty):
    """`y = x`, with the term `strength * mean_b sum_j w_j |x_bj|`: `l1` as a layer; see `Penalty`.

    Args:
        strength: factor of the term, at least 0. 1e-5 to 1e-3 are usual for ReLU networks.
        dim: the dimension that holds the units.
        reader: the layer that reads these activations, an `nn.Linear` or a convolution. The norms of its weights, a norm for
            each input unit, are then the weights `w`, and take part in the gradient, so that the penalty cannot be escaped.

    Raises:
        TypeError: `reader` is no such layer.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), L1(1e-3), nn.Linear(8, 2))
    >>> model[2]
    L1(strength=0.001)
    """

    def __init__(self, strength: float, dim: int = -1, *, reader: nn.Module | None = None) -> None:
        super().__init__(strength, dim)
        self._reader = hold_reader(reader)

    @property
    def reader(self) -> nn.Module | None:
        """The layer whose weights weigh the units."""
        return self._reader[0] if self._reader else None

    def value(self, input: Tensor) -> Tensor:
        return l1(input, self.dim, weight=column_norms(self._reader))


def column_norms(held: tuple[Any, ...]) -> Tensor | None:
    """Return the 2-norm of the weights that read each unit, for the layer in `held`; None if `held` is empty."""
    if not held:
        return None
    (reader,) = held
    weight: Tensor = reader.weight
    norms: Tensor = weight.movedim(1, 0).flatten(1).norm(dim=1)
    return norms


def hold_reader(reader: nn.Module | None) -> tuple[nn.Module, ...]:
    """Return `reader` in a tuple, so that it does not become a submodule, or an empty tuple."""
    if reader is None:
        return ()
    readers = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    if not isinstance(reader, readers) or getattr(reader, "groups", 1) != 1:
        raise TypeError(f"reader must be an nn.Linear or an ungrouped convolution, got {reader!r}")
    return (reader,)
