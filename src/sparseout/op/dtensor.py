"""The op on a `DTensor`: each rank computes its shard, with a seed and a running scale that agree across ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sparseout.op import custom_ops
from sparseout.op.backends import PLAIN, Backend
from sparseout.op.settings import Settings
from sparseout.torch_internals import all_reduce, broadcast

# Odd, so no two shards have the same seed, and different from the constants that Philox adds to its key.
_SEED_STEP = 0x5851F42D4C957F2D


def is_dtensor(input: Tensor) -> bool:
    """Return whether `input` is a `DTensor`. Only a subclass of `Tensor` causes an import of its module."""
    if type(input) in PLAIN or not torch.distributed.is_available():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(input, DTensor)


def local_of(tensor: Any) -> Tensor:
    """Return this rank's shard of a `DTensor`; return any other tensor unchanged."""
    local: Tensor = tensor.to_local() if is_dtensor(tensor) else tensor
    return local


def forward(input: Any, seed: Tensor, settings: Settings, backend: Backend | None) -> Tensor:
    """Compute `y` as a `DTensor` with the placements of `input`, except that a partial sum is reduced to a replicated one.

    `seed` is this rank's. Ranks that hold the same elements use the seed of the first of them. Each shard has its own seed,
    except along the shared dimensions, where all shards use one.
    """
    from torch.distributed.tensor import DTensor

    input, sharded = _reduced(input)
    mesh, shard = input.device_mesh, 0
    for mesh_dim, dim in enumerate(sharded):
        if dim is None or dim in settings.shared_dims:
            seed = broadcast(seed, mesh, mesh_dim)
        else:
            shard = shard * mesh.size(mesh_dim) + mesh.get_local_rank(mesh_dim)
    y = custom_ops.forward(input.to_local(), seed + _signed(_SEED_STEP * shard), settings, backend)
    return DTensor.from_local(y, mesh, input.placements, run_check=False, shape=input.shape, stride=input.stride())


def local_shard(input: Any) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return this rank's shard, and a function that sums a tensor over the ranks with different shards."""
    input, sharded = _reduced(input)

    def summed(tensor: Tensor) -> Tensor:
        for mesh_dim, dim in enumerate(sharded):
            if dim is not None:
                tensor = all_reduce(tensor, input.device_mesh, mesh_dim)
        return tensor

    return input.to_local(), summed


def _reduced(input: Any) -> tuple[Any, list[int | None]]:
    """Return `input` with partial sums reduced, and for each dimension of the mesh the dimension of `input` that it shards."""
    from torch.distributed.tensor import Replicate

    placements = tuple(Replicate() if placement.is_partial() else placement for placement in input.placements)
    if placements != tuple(input.placements):
        input = input.redistribute(placements=placements)
    return input, [getattr(placement, "dim", None) for placement in placements]


def _signed(number: int) -> int:
    """Return the int64 that equals `number` modulo 2^64."""
    return (number + 2**63) % 2**64 - 2**63
