"""What a tensor can be read as: its values in plain memory, or why there are none to read."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn.utils.rnn import PackedSequence

from sparseout.op.backends import is_plain
from sparseout.torch_internals import (
    is_async_collective,
    is_fake,
    is_freed,
    is_functorch_active,
    is_legacy_batched,
    is_tracing,
    without_torch_function,
)


class UnreadableError(Exception):
    """Why the values of a tensor cannot be read: a verb and its object, such as `"is no dense, real tensor"`."""


def first(value: Any) -> tuple[Tensor | None, bool]:
    """The first tensor in a tensor, a tuple (an LSTM's), a mapping (a `ModelOutput`), and whether it is a packed sequence's."""
    if isinstance(value, Tensor):
        return value, False
    if isinstance(value, PackedSequence):
        return value.data, True
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        return next((found for item in value if (found := first(item))[0] is not None), (None, False))
    return None, False


def whole(tensor: Tensor) -> Tensor:
    """The values of `tensor` as a plain, strided tensor of real numbers: of a `DTensor` those of all ranks, which all call this.

    Raises:
        UnreadableError: it has no such values, or none yet.
    """
    if is_plain(tensor) and not is_tracing():
        return _dense(tensor)
    if reason := _tracer(tensor):
        raise UnreadableError(reason)
    if isinstance(tensor, _class("torch.distributed.tensor", "DTensor")):
        if tensor.device_mesh.get_coordinate() is None:
            raise UnreadableError("is a DTensor of other ranks")
        local = whole(tensor._local_tensor)  # has values, so that all ranks go on to exchange them
        kind = zlib.crc32(repr((tuple(tensor.shape), tensor.placements, tensor.dtype)).encode())
        if not same_on_all(torch.tensor([kind], dtype=torch.float64, device=local.device), tensor.device_mesh):
            raise UnreadableError("is a DTensor whose shape differs between the ranks")
        return whole(tensor.detach().full_tensor())
    if is_async_collective(tensor):
        return whole(tensor.trigger_wait())  # type: ignore[attr-defined]
    if type(tensor).__torch_dispatch__ is Tensor.__torch_dispatch__:  # the memory is its own
        with without_torch_function():
            plain = _dense(tensor.detach() if type(tensor) is Tensor else tensor.detach().as_subclass(Tensor))
        if is_freed(plain):
            raise UnreadableError("has no memory, which was freed")
        return plain
    raise UnreadableError(f"is a {type(tensor).__name__}, whose values cannot be read")


def items(tensor: Tensor) -> Tensor:
    """The vectors of a nested tensor, of shape `(vectors, units)`: it holds no padding."""
    parts = [whole(part) for part in tensor.detach().unbind()]
    if not parts or any(part.dim() < 2 or part.shape[-1] != parts[0].shape[-1] for part in parts):
        raise UnreadableError("is a nested tensor whose vectors differ in length")
    return torch.cat([part.flatten(0, -2) for part in parts])


def ranks(tensor: Tensor) -> tuple[int, ...]:
    """The ranks that have the values of `whole(tensor)` too; none of a tensor that is this rank's own."""
    if isinstance(tensor, _class("torch.distributed.tensor", "DTensor")):
        return tuple(tensor.device_mesh.mesh.flatten().tolist())
    return ()


def same_on_all(numbers: Tensor, mesh: Any) -> bool:
    """Whether a vector of numbers is the same on all ranks of a mesh, which all call this."""
    bounds = torch.cat([numbers, -numbers])
    for dim in range(mesh.ndim):
        distributed.all_reduce(bounds, distributed.ReduceOp.MIN, group=mesh.get_group(dim))
    low, high = bounds.chunk(2)
    return torch.equal(low, -high)


def _dense(tensor: Tensor) -> Tensor:
    if tensor.layout != torch.strided or tensor.is_complex() or tensor.is_meta or tensor.is_nested or tensor.is_quantized:
        raise UnreadableError("is no dense, real tensor")
    if tensor.is_cuda and torch.cuda.is_current_stream_capturing():
        raise UnreadableError("was computed while a CUDA graph was captured")
    return tensor


def _tracer(tensor: Tensor) -> str | None:
    """What runs that sees operations and not values, if anything does."""
    if is_tracing():
        return "was computed under torch.jit.trace"
    if is_functorch_active() or is_legacy_batched(tensor):
        return "was computed inside a transform of torch.func, such as vmap or grad"
    if is_fake(tensor):
        return "is a FakeTensor, which has no values"
    return None


def _class(module: str, name: str) -> Any:
    """A class of a module that was imported, else none at all: what was not imported made no tensor."""
    return getattr(sys.modules.get(module), name, ())
