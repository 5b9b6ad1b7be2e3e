"""Sparseout with shared draws: drop-in replacements for `torch.nn.Dropout1d/2d/3d` and for locked dropout."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from sparseout.checks import Gradient, LayerScale
from sparseout.layers import Sparseout


class _Structured(Sparseout):
    """A layer that checks the number of dimensions of its input, with or without a batch dimension."""

    _shapes: tuple[str, str]

    def _shared_dims_of(self, input: Tensor) -> int | Sequence[int]:
        if not self.training:
            return ()  # evaluation is the identity for any shape
        if isinstance(input, Tensor) and input.dim() not in (shape.count(",") + 1 for shape in self._shapes):
            return self._shared_dims_of_unusual(input)
        return self.shared_dims

    def _shared_dims_of_unusual(self, input: Tensor) -> tuple[int, ...]:
        """Return `_shared_dims_of(input)` for an `input` with another number of dimensions, or raise."""
        batched, unbatched = self._shapes
        raise ValueError(f"input of {type(self).__name__} must be {batched} or {unbatched}, got shape {tuple(input.shape)}")


class _Channelwise(_Structured):
    """A layer that shares one draw among all positions of a channel."""

    _positions: tuple[int, ...]
    _first_position: int | None = None  # in an input with another number of dimensions, if PyTorch's layer accepts it

    def _shared_dims_of_unusual(self, input: Tensor) -> tuple[int, ...]:
        first, ndim = self._first_position, input.dim()
        if first is None or ndim < first:
            return super()._shared_dims_of_unusual(input)
        batched, unbatched = self._shapes
        warnings.warn(
            f"input of {type(self).__name__} should be {batched} or {unbatched}, got shape {tuple(input.shape)}: one draw "
            f"is shared along all dimensions from the {'second' if first == 1 else 'third'} on, as in PyTorch's layer",
            stacklevel=6,
        )
        return tuple(range(first, ndim))

    def __init__(
        self,
        p: float = 0.5,
        q: float = 2.0,
        inplace: bool = False,
        *,
        scale: LayerScale = 1.0,
        gradient: Gradient = "detached",
        eps: float | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(p, q, inplace, scale=scale, gradient=gradient, eps=eps, shared_dims=self._positions, generator=generator)


class Sparseout1d(_Channelwise):
    """`y = x + s sign(x) |x/s|^(q/2) n` with one draw per channel: at `q = 2` it drops whole channels, as `nn.Dropout1d` does.

    Args:
        p, q, inplace, scale, gradient, eps, generator: see `Sparseout`.

    Shape:
        Input and output: `(N, C, L)` or `(C, L)`, the same.

    Raises:
        TypeError, ValueError: as `Sparseout`; ValueError in training for an input with another number of dimensions.

    >>> _ = torch.manual_seed(0)
    >>> Sparseout1d(p=0.5, q=1.0)(torch.full((3, 2), 4.0))
    tensor([[2., 2.],
            [6., 6.],
            [2., 2.]])
    """

    _shapes = ("(N, C, L)", "(C, L)")
    _positions = (-1,)


class Sparseout2d(_Channelwise):
    """`y = x + s sign(x) |x/s|^(q/2) n` with one draw per channel: at `q = 2` it drops whole channels, as `nn.Dropout2d` does.

    A 3-d input is one sample `(C, H, W)`. `nn.Dropout2d` warns and treats it as `(N, C, L)`, the input of `Sparseout1d`. For an
    input with 2 or more than 4 dimensions, the layer warns and makes one draw per index of the first two, as `nn.Dropout2d` does.

    Args:
        p, q, inplace, scale, gradient, eps, generator: see `Sparseout`.

    Shape:
        Input and output: `(N, C, H, W)` or `(C, H, W)`, the same.

    Raises:
        TypeError, ValueError: as `Sparseout`; ValueError in training for an input with fewer than 2 dimensions.

    >>> _ = torch.manual_seed(0)
    >>> Sparseout2d(p=0.5)(torch.ones(1, 3, 4, 4)).mean((2, 3))
    tensor([[0., 2., 0.]])
    """

    _shapes = ("(N, C, H, W)", "(C, H, W)")
    _positions = (-2, -1)
    _first_position = 2


class Sparseout3d(_Channelwise):
    """`y = x + s sign(x) |x/s|^(q/2) n` with one draw per channel: at `q = 2` it drops whole channels, as `nn.Dropout3d` does.

    For an input with another number of dimensions, the layer warns and makes one draw per index of the first dimension, as
    `nn.Dropout3d` does.

    Args:
        p, q, inplace, scale, gradient, eps, generator: see `Sparseout`.

    Shape:
        Input and output: `(N, C, D, H, W)` or `(C, D, H, W)`, the same.

    Raises:
        TypeError, ValueError: as `Sparseout`; ValueError in training for a 0-d input.

    >>> _ = torch.manual_seed(0)
    >>> Sparseout3d(p=0.5)(torch.ones(1, 3, 2, 4, 4)).mean((2, 3, 4))
    tensor([[0., 2., 0.]])
    """

    _shapes = ("(N, C, D, H, W)", "(C, D, H, W)")
    _positions = (-3, -2, -1)
    _first_position = 1


class LockedSparseout(_Structured):
    """`y_t = x_t + s sign(x_t) |x_t/s|^(q/2) n`: one draw per sequence and feature, shared by all time steps `t`.

    At `q = 2` this is the locked (variational) dropout of recurrent networks.

    Args:
        p, q, inplace, scale, gradient, eps, generator: see `Sparseout`.
        batch_first: the input is `(N, T, F)` instead of `(T, N, F)`, as for `nn.LSTM`. It does not affect a single sequence.

    Shape:
        Input and output: `(T, N, F)`, or `(N, T, F)` if `batch_first`, or `(T, F)`, the same.

    Raises:
        TypeError, ValueError: as `Sparseout`; ValueError in training for an input with another number of dimensions.

    Source: Gal and Ghahramani (2016), arXiv:1512.05287; Merity, Keskar and Socher (2018), arXiv:1708.02182, section 4.2.

    >>> _ = torch.manual_seed(0)
    >>> LockedSparseout(p=0.5, q=1.0, batch_first=True)(torch.full((1, 2, 3), 4.0))
    tensor([[[2., 6., 2.],
             [2., 6., 2.]]])
    """

    def __init__(
        self,
        p: float = 0.5,
        q: float = 2.0,
        inplace: bool = False,
        *,
        batch_first: bool = False,
        scale: LayerScale = 1.0,
        gradient: Gradient = "detached",
        eps: float | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        # The number also fits a single sequence, which has no batch dimension.
        time = -2 if batch_first else 0
        super().__init__(p, q, inplace, scale=scale, gradient=gradient, eps=eps, shared_dims=(time,), generator=generator)
        self.batch_first = batch_first
        self._shapes = ("(N, T, F)" if batch_first else "(T, N, F)", "(T, F)")
