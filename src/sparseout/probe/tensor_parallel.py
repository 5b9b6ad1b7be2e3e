"""Tensor parallelism: the full value of a layer when each rank holds a part of it in an ordinary tensor."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakTensorKeyDictionary

from sparseout.probe.hooks import Hook, SharedContext
from sparseout.probe.values import UnreadableError, equal_on_all_ranks, plain_values, ranks_of


class TensorParallel:
    """Assembles the full values of a tensor-parallel model.

    `ColwiseParallel`, `RowwiseParallel` and `DTensor.to_local` return a rank's part as an ordinary tensor. Its placement is
    recorded there, and followed through activation functions and dropouts. Any other tensor counts as replicated if it is equal
    on all ranks; otherwise its placement is unknown.
    """

    def __init__(self, model: nn.Module) -> None:
        self._mesh = _mesh(model)

    @property
    def active(self) -> bool:
        """Whether the model is tensor-parallel."""
        return self._mesh is not None

    @property
    def counted_elsewhere(self) -> bool:
        """Whether another rank counts the forward passes in which this rank takes part."""
        return self._mesh is not None and distributed.get_rank() != self._mesh.mesh.flatten()[0]

    def hook(self, module: nn.Module) -> RemovableHandle:
        """Follow placements through an activation function or a dropout."""
        return module.register_forward_hook(Hook(self._follow))

    def full_values(self, tensor: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """Return all values of a tensor, and the ranks that have the same values; no ranks if only this rank has them.

        Raises:
            UnreadableError: the tensor has no values, or its placement is unknown.
        """
        if ranks := ranks_of(tensor):
            return plain_values(tensor), ranks
        local = plain_values(tensor)
        if self._mesh is None:
            return local, ()
        if (spec := _PLACEMENTS.get(tensor)) is not None:
            from torch.distributed.tensor import DTensor

            full = DTensor.from_local(
                local.detach(), spec.mesh, spec.placements, run_check=False, shape=spec.shape, stride=spec.stride
            )
            return plain_values(full), ranks_of(full)
        if not _is_replicated(local, self._mesh):
            raise UnreadableError("is a part of a tensor-parallel value, and which part is not known")
        return local, tuple(self._mesh.mesh.flatten().tolist())

    def _follow(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        spec = _PLACEMENTS.get(args[0]) if args and isinstance(args[0], Tensor) else None
        if spec is None or not isinstance(output, Tensor) or output.shape != args[0].shape:
            return
        if not any(placement.is_partial() for placement in spec.placements):
            _PLACEMENTS[output] = spec


@contextlib.contextmanager
def _recording_placements() -> Iterator[None]:
    """Record the placement of each tensor that `DTensor.to_local` returns, as the tensor itself does not have it."""
    from torch.distributed.tensor import DTensor

    original = DTensor.to_local

    @functools.wraps(original)
    def to_local(self: Any, *args: Any, **kwargs: Any) -> Tensor:
        part = original(self, *args, **kwargs)
        _PLACEMENTS[part] = self._spec
        return part

    DTensor.to_local = to_local  # type: ignore[method-assign]
    try:
        yield
    finally:
        DTensor.to_local = original  # type: ignore[method-assign]


_PLACEMENTS = WeakTensorKeyDictionary()
RECORDING_PLACEMENTS = SharedContext(_recording_placements)


def _mesh(model: nn.Module) -> Any:
    """Return the mesh of ranks that share a forward pass; None if each rank runs its own, as in data parallelism."""
    if (module := sys.modules.get("torch.distributed.tensor")) is None:
        return None
    sharded = [owner for owner in model.modules() if any(kind.__name__ == "FSDPModule" for kind in type(owner).__mro__)]
    if sharded:  # FSDP gathers its own shards before the forward pass; only tensor-parallel placements remain
        groups = [owner._get_fsdp_state()._fsdp_param_group for owner in sharded]  # type: ignore[operator]
        specs = [getattr(parameter, "_tp_spec", None) for group in groups if group for parameter in group.fsdp_params]
        return next((spec.mesh for spec in specs if spec is not None), None)
    return next((parameter.device_mesh for parameter in model.parameters() if isinstance(parameter, module.DTensor)), None)


def _is_replicated(tensor: Tensor, mesh: Any) -> bool:
    """Return whether a tensor is equal on all ranks of a mesh, by its shape and two sums."""
    wide = tensor.detach().double().nan_to_num()
    shape = torch.tensor((*tensor.shape, *[-1] * 8)[:8], dtype=torch.float64, device=wide.device)
    return equal_on_all_ranks(torch.cat([torch.stack([wide.sum(), wide.square().sum()]), shape]), mesh)
