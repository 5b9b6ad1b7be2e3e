"""Tensor parallelism: the whole of a value of which each rank holds a part in an ordinary tensor."""

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

from sparseout.probe.hook import Hook
from sparseout.probe.readable import UnreadableError, ranks, same_on_all, whole
from sparseout.probe.shared import Shared


class Shards:
    """What the ordinary tensors of a tensor-parallel model are parts of.

    `ColwiseParallel`, `RowwiseParallel` and `DTensor.to_local` hand on a rank's part as an ordinary tensor. Its placement is
    noted there, and stays known through activation functions and dropouts. Any other value is replicated if it is the same on all
    ranks, else unknown.
    """

    def __init__(self, model: nn.Module) -> None:
        self._mesh = _mesh(model)

    @property
    def active(self) -> bool:
        """Whether the model is tensor-parallel."""
        return self._mesh is not None

    @property
    def counted_elsewhere(self) -> bool:
        """Whether another rank counts the forward passes that this rank takes part in."""
        return self._mesh is not None and distributed.get_rank() != self._mesh.mesh.flatten()[0]

    def hook(self, module: nn.Module) -> RemovableHandle:
        """Follow placements through an activation function or a dropout."""
        return module.register_forward_hook(Hook(self._follow))

    def whole(self, tensor: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """All values of a tensor, and the ranks that have them too; none where they are this rank's own.

        Raises:
            UnreadableError: it has none, or its placement is unknown.
        """
        if shared := ranks(tensor):
            return whole(tensor), shared
        local = whole(tensor)
        if self._mesh is None:
            return local, ()
        if (spec := _PARTS.get(tensor)) is not None:
            from torch.distributed.tensor import DTensor

            part = DTensor.from_local(
                local.detach(), spec.mesh, spec.placements, run_check=False, shape=spec.shape, stride=spec.stride
            )
            return whole(part), ranks(part)
        if not _equal(local, self._mesh):
            raise UnreadableError("is a part of a tensor-parallel value, and which part is not known")
        return local, tuple(self._mesh.mesh.flatten().tolist())

    def _follow(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        spec = _PARTS.get(args[0]) if args and isinstance(args[0], Tensor) else None
        if spec is None or not isinstance(output, Tensor) or output.shape != args[0].shape:
            return
        if not any(placement.is_partial() for placement in spec.placements):
            _PARTS[output] = spec


@contextlib.contextmanager
def _noting_parts() -> Iterator[None]:
    """Note what each tensor is a part of that `DTensor.to_local` returns: the tensor itself does not say."""
    from torch.distributed.tensor import DTensor

    original = DTensor.to_local

    @functools.wraps(original)
    def to_local(self: Any, *args: Any, **kwargs: Any) -> Tensor:
        part = original(self, *args, **kwargs)
        _PARTS[part] = self._spec
        return part

    DTensor.to_local = to_local  # type: ignore[method-assign]
    try:
        yield
    finally:
        DTensor.to_local = original  # type: ignore[method-assign]


_PARTS = WeakTensorKeyDictionary()
NOTING_PARTS = Shared(_noting_parts)


def _mesh(model: nn.Module) -> Any:
    """The ranks that compute one forward pass together; None where each computes its own, as in data parallelism."""
    if (module := sys.modules.get("torch.distributed.tensor")) is None:
        return None
    sharded = [owner for owner in model.modules() if any(kind.__name__ == "FSDPModule" for kind in type(owner).__mro__)]
    if sharded:  # FSDP's own placements end before the forward pass; those that it found stay
        groups = [owner._get_fsdp_state()._fsdp_param_group for owner in sharded]  # type: ignore[operator]
        specs = [getattr(parameter, "_tp_spec", None) for group in groups if group for parameter in group.fsdp_params]
        return next((spec.mesh for spec in specs if spec is not None), None)
    return next((parameter.device_mesh for parameter in model.parameters() if isinstance(parameter, module.DTensor)), None)


def _equal(tensor: Tensor, mesh: Any) -> bool:
    """Whether a tensor is the same on all ranks of a mesh."""
    wide = tensor.detach().double().nan_to_num()
    shape = torch.tensor((*tensor.shape, *[-1] * 8)[:8], dtype=torch.float64, device=wide.device)
    return same_on_all(torch.cat([torch.stack([wide.sum(), wide.square().sum()]), shape]), mesh)
