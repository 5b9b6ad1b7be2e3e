"""The tally of a layer's call: the sums over its value, without padding."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor, distributed

from sparseout.probe.excitations import Excitations, SampleCounter
from sparseout.probe.masks import MaskStack
from sparseout.probe.padding import MaskError, MaskSet
from sparseout.probe.selection import Layer
from sparseout.probe.sums import ExtraSums, Summer, Sums
from sparseout.probe.tensor_parallel import TensorParallel
from sparseout.probe.values import UnreadableError, first_tensor, nested_vectors
from sparseout.torch_internals import version_of


@dataclasses.dataclass
class Tally:
    """The sums over one or more calls of a layer.

    Attributes:
        unit_dim: the dimensions of the last value that hold the units.
        sums: the sums over the vectors.
        calls: the number of calls.
        padding: the number of vectors left out.
        unread: why a mask does not tell which vectors are padding; empty if every mask does.
        excitations: the samples that excite each unit most.
    """

    unit_dim: tuple[int, ...] = ()
    sums: Sums = dataclasses.field(default_factory=Sums)
    calls: int = 0
    padding: int = 0
    unread: str = ""
    excitations: Excitations = dataclasses.field(default_factory=Excitations)

    def add(self, other: Tally) -> None:
        """Add the calls of another tally."""
        self.unit_dim = other.unit_dim or self.unit_dim
        self.sums.add(other.sums)
        self.calls += other.calls
        self.padding += other.padding
        self.unread = self.unread or other.unread
        self.excitations.add(other.excitations)


class Tallier:
    """Makes tallies. It caches the last one, as the input of a Dropout is often the output of an activation."""

    def __init__(self, extra: ExtraSums, masks: MaskStack, tensor_parallel: TensorParallel, samples: SampleCounter) -> None:
        self._summer, self._masks, self._tensor_parallel, self._samples = Summer(extra), masks, tensor_parallel, samples
        self._last: _Cached | None = None

    def tally(self, layer: Layer, value: Any) -> tuple[Tally, bool]:
        """Return the tally of a layer's value, and whether another rank counts the same values.

        Raises:
            UnreadableError: the value holds no tensor that can be read.
        """
        tensor, packed = first_tensor(value)
        if tensor is None:
            raise UnreadableError("is not a dense, real tensor")
        dims = layer.dims(tensor.dim())
        masks = None if packed or tensor.is_nested else self._masks.current
        version = version_of(tensor)
        if version is not None and self._last and self._last.is_for(tensor, version, dims, masks):
            return self._last.tally, self._last.duplicate
        values, ranks = (nested_vectors(tensor), ()) if tensor.is_nested else self._tensor_parallel.full_values(tensor)
        vectors = _units_last(values.detach(), dims)
        kept, unread = vectors, ""
        if masks is not None:
            try:
                kept = masks.keep(vectors)
            except MaskError as error:
                unread = str(error)
        padding = (vectors.numel() - kept.numel()) // max(1, vectors.shape[-1])
        tally = Tally(dims, self._summer.sums(kept), calls=1, padding=padding, unread=unread)
        if self._samples.active:
            tally.excitations = self._samples.excitations(vectors, masks.keep if masks is not None and padding else None)
        duplicate = bool(ranks) and distributed.get_rank() != ranks[0]
        self._last = _Cached(weakref.ref(tensor), version, dims, masks, tally, duplicate)
        return tally, duplicate


@dataclasses.dataclass
class _Cached:
    """A tally and a weak reference to its tensor."""

    tensor: Callable[[], Tensor | None]
    version: int | None
    dims: tuple[int, ...]
    masks: MaskSet | None
    tally: Tally
    duplicate: bool

    def is_for(self, tensor: Tensor, *state: Any) -> bool:
        return self.tensor() is tensor and state == (self.version, self.dims, self.masks)


def _units_last(tensor: Tensor, dims: tuple[int, ...]) -> Tensor:
    """Return `tensor` as `(..., units)`, as a view if possible."""
    if dims == (-1,):
        return tensor if tensor.dim() else tensor[None]
    if any(not -tensor.dim() <= dim < tensor.dim() for dim in dims) or len({dim % tensor.dim() for dim in dims}) < len(dims):
        raise ValueError(f"unit_dim must name distinct dimensions of a value of shape {tuple(tensor.shape)}, got {dims}")
    return tensor.movedim(dims, tuple(range(-len(dims), 0))).flatten(-len(dims))
