"""The op on a `DTensor`: each rank computes its own shard, with a seed and a running scale that agree across ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sparseout.checks import Gradient
from sparseout.op import custom_ops
from sparseout.op.backends import PLAIN, Backend
from sparseout.op.running_rms import RunningRMS, sample

# Odd, so that no two shards have the same seed; it differs from the constants that Philox adds to its key.
_SEED_STEP = 0x5851F42D4C957F2D


def is_dtensor(input: Tensor) -> bool:
    """Whether `input` is a `DTensor`. Its module is imported for subclasses of tensors alone."""
    if type(input) in PLAIN or not torch.distributed.is_available():
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(input, DTensor)


def local_of(tensor: Any) -> Tensor:
    """The memory of a replicated `DTensor` on this rank; any other tensor as it is."""
    local: Tensor = tensor.to_local() if is_dtensor(tensor) else tensor
    return local


def noise(
    input: Any,
    p: float | Tensor,
    q: float | Tensor,
    scale: float | Tensor | RunningRMS,
    gradient: Gradient,
    eps: float,
    dims: tuple[int, ...],
    generator: torch.Generator | None,
    backend: Backend | None,
) -> Tensor:
    """`y` as a `DTensor` of the placements of `input`; a partial sum is reduced first, and becomes replicated.

    Ranks that hold the same elements take the seed of the first of them, whatever their generators. Shards have seeds of their
    own, except along `dims`, where one draw is shared by all.
    """
    from torch.distributed.tensor import DTensor, Replicate

    placements = tuple(Replicate() if placement.is_partial() else placement for placement in input.placements)
    if placements != tuple(input.placements):
        input = input.redistribute(placements=placements)
    mesh, local = input.device_mesh, input.to_local()
    sharded = [getattr(placement, "dim", None) for placement in placements]  # the dimension of `input`, by that of the mesh
    seed, shard = custom_ops.draw(local, generator), 0
    for mesh_dim, dim in enumerate(sharded):
        if dim is None or dim in dims:
            seed = _broadcast(seed, mesh, mesh_dim)
        else:
            shard = shard * mesh.size(mesh_dim) + mesh.get_local_rank(mesh_dim)
    if isinstance(scale, RunningRMS):
        scale = scale.tensor(_rms(local.detach(), mesh, sharded), seed)
    y = custom_ops.noise(local, p, q, seed + _signed(_SEED_STEP * shard), scale, gradient, eps, dims, backend)
    return DTensor.from_local(y, mesh, placements, run_check=False, shape=input.shape, stride=input.stride())


def _rms(local: Tensor, mesh: Any, sharded: Sequence[int | None]) -> Tensor:
    """The root mean square of the full tensor, of shape `(1,)`, from a sample of each shard."""
    some = sample(local)
    squares = some.dot(some) / max(len(some), 1) * local.numel()
    sums = torch.stack([squares, torch.full_like(squares, local.numel())])
    for mesh_dim, dim in enumerate(sharded):
        if dim is not None:
            sums = _reduce(sums, mesh, mesh_dim)
    return (sums[:1] / sums[1:]).sqrt()


def _broadcast(tensor: Tensor, mesh: Any, mesh_dim: int) -> Tensor:
    from torch.distributed import _functional_collectives as collectives

    sent: Tensor = collectives.wait_tensor(collectives.broadcast(tensor, 0, (mesh, mesh_dim)))
    return sent


def _reduce(tensor: Tensor, mesh: Any, mesh_dim: int) -> Tensor:
    from torch.distributed import _functional_collectives as collectives

    total: Tensor = collectives.wait_tensor(collectives.all_reduce(tensor, "sum", (mesh, mesh_dim)))
    return total


def _signed(number: int) -> int:
    """`number` modulo 2^64, as an int64 holds it."""
    return (number + 2**63) % 2**64 - 2**63
