"""The values of a tensor in plain memory, or why they cannot be read."""

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
    """The values of a tensor cannot be read. The message starts with a verb, such as `"is not a dense, real tensor"`."""


def first_tensor(value: Any) -> tuple[Tensor | None, bool]:
    """Return the first tensor in a tensor, tuple, list or mapping, and whether it is the data of a packed sequence."""
    if isinstance(value, Tensor):
        return value, False
    if isinstance(value, PackedSequence):
        return value.data, True
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple | list):
        return next((found for item in value if (found := first_tensor(item))[0] is not None), (None, False))
    return None, False


def plain_values(tensor: Tensor) -> Tensor:
    """Return the values of `tensor` as a plain, strided, real tensor.

    For a `DTensor` these are the values of all ranks, so all ranks of its mesh must call this function.

    Raises:
        UnreadableError: the tensor has no such values.
    """
    if is_plain(tensor) and not is_tracing():
        return _dense(tensor)
    if reason := _tracing(tensor):
        raise UnreadableError(reason)
    if isinstance(tensor, _dtensor_class()):
        if tensor.device_mesh.get_coordinate() is None:
            raise UnreadableError("is a DTensor of other ranks")
        local = plain_values(tensor._local_tensor)  # raises before the exchange, which the other ranks would wait in
        kind = zlib.crc32(repr((tuple(tensor.shape), tensor.placements, tensor.dtype)).encode())
        if not equal_on_all_ranks(torch.tensor([kind], dtype=torch.float64, device=local.device), tensor.device_mesh):
            raise UnreadableError("is a DTensor whose shape differs between the ranks")
        return plain_values(tensor.detach().full_tensor())
    if is_async_collective(tensor):
        return plain_values(tensor.trigger_wait())  # type: ignore[attr-defined]
    if type(tensor).__torch_dispatch__ is Tensor.__torch_dispatch__:  # a subclass that keeps its values in its own memory
        with without_torch_function():
            plain = _dense(tensor.detach() if type(tensor) is Tensor else tensor.detach().as_subclass(Tensor))
        if is_freed(plain):
            raise UnreadableError("has no memory, which was freed")
        return plain
    raise UnreadableError(f"is a {type(tensor).__name__}, whose values cannot be read")


def nested_vectors(tensor: Tensor) -> Tensor:
    """Return the vectors of a nested tensor, of shape `(vectors, units)`. A nested tensor holds no padding."""
    parts = [plain_values(part) for part in tensor.detach().unbind()]
    if not parts or any(part.dim() < 2 or part.shape[-1] != parts[0].shape[-1] for part in parts):
        raise UnreadableError("is a nested tensor whose vectors differ in length")
    return torch.cat([part.flatten(0, -2) for part in parts])


def ranks_of(tensor: Tensor) -> tuple[int, ...]:
    """Return the ranks that get the same values from `plain_values(tensor)`; empty for a tensor that only this rank has."""
    if isinstance(tensor, _dtensor_class()):
        return tuple(tensor.device_mesh.mesh.flatten().tolist())
    return ()


def equal_on_all_ranks(numbers: Tensor, mesh: Any) -> bool:
    """Return whether a vector is equal on all ranks of a mesh, which must all call this function."""
    bounds = torch.cat([numbers, -numbers])
    for dim in range(mesh.ndim):
        distributed.all_reduce(bounds, distributed.ReduceOp.MIN, group=mesh.get_group(dim))
    low, high = bounds.chunk(2)
    return torch.equal(low, -high)


def _dense(tensor: Tensor) -> Tensor:
    if tensor.layout != torch.strided or tensor.is_complex() or tensor.is_meta or tensor.is_nested or tensor.is_quantized:
        raise UnreadableError("is not a dense, real tensor")
    if tensor.is_cuda and torch.cuda.is_current_stream_capturing():
        raise UnreadableError("was computed while a CUDA graph was captured")
    return tensor


def _tracing(tensor: Tensor) -> str | None:
    """Return why a tensor has no values yet because torch only records operations; None if that is not the case."""
    if is_tracing():
        return "was computed under torch.jit.trace"
    if is_functorch_active() or is_legacy_batched(tensor):
        return "was computed inside a transform of torch.func, such as vmap or grad"
    if is_fake(tensor):
        return "is a FakeTensor, which has no values"
    return None


def _dtensor_class() -> Any:
    """Return the class `DTensor` or, if its module was not imported, an empty tuple, which no tensor is an instance of."""
    return getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", ())
