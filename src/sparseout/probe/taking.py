"""The sums of one value: read, without its padding."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor, distributed

from sparseout.probe.findings import Tally
from sparseout.probe.mask_stack import MaskStack
from sparseout.probe.padding import MaskError, Masks
from sparseout.probe.readable import UnreadableError, first, items
from sparseout.probe.selection import Layer
from sparseout.probe.shards import Shards
from sparseout.probe.sums import Parts, Summer
from sparseout.torch_internals import version_of


class Taker:
    """Takes the sums of values, and keeps the last: a Dropout's input is often an activation's output."""

    def __init__(self, parts: Parts, masks: MaskStack, shards: Shards) -> None:
        self._summer, self._masks, self._shards = Summer(parts), masks, shards
        self._last: _Taken | None = None

    def take(self, layer: Layer, value: Any) -> tuple[Tally, bool]:
        """The sums of a layer's value, and whether another rank counts them.

        Raises:
            UnreadableError: it holds no values that can be read.
        """
        tensor, packed = first(value)
        if tensor is None:
            raise UnreadableError("is no dense, real tensor")
        dims = layer.dims(tensor.dim())
        masks = None if packed or tensor.is_nested else self._masks.current
        version = version_of(tensor)
        if version is not None and self._last and self._last.is_of(tensor, version, dims, masks):
            return self._last.tally, self._last.elsewhere
        whole, ranks = (items(tensor), ()) if tensor.is_nested else self._shards.whole(tensor)
        vectors = _units_last(whole.detach(), dims)
        kept, unread = vectors, ""
        if masks is not None:
            try:
                kept = masks.keep(vectors)
            except MaskError as error:
                unread = str(error)
        left_out = (vectors.numel() - kept.numel()) // max(1, vectors.shape[-1])
        tally = Tally(dims, self._summer.sums(kept), calls=1, padding=left_out, unread=unread)
        elsewhere = bool(ranks) and distributed.get_rank() != ranks[0]
        self._last = _Taken(weakref.ref(tensor), version, dims, masks, tally, elsewhere)
        return tally, elsewhere


@dataclasses.dataclass
class _Taken:
    """The value whose sums were taken last, without keeping it."""

    tensor: Callable[[], Tensor | None]
    version: int | None
    dims: tuple[int, ...]
    masks: Masks | None
    tally: Tally
    elsewhere: bool

    def is_of(self, tensor: Tensor, *seen: Any) -> bool:
        return self.tensor() is tensor and seen == (self.version, self.dims, self.masks)


def _units_last(tensor: Tensor, dims: tuple[int, ...]) -> Tensor:
    """`(..., units)`: a view where that can be."""
    if dims == (-1,):
        return tensor if tensor.dim() else tensor[None]
    if any(not -tensor.dim() <= dim < tensor.dim() for dim in dims) or len({dim % tensor.dim() for dim in dims}) < len(dims):
        raise ValueError(f"unit_dim must name dimensions of its value, of shape {tuple(tensor.shape)}, once each, got {dims}")
    return tensor.movedim(dims, tuple(range(-len(dims), 0))).flatten(-len(dims))
