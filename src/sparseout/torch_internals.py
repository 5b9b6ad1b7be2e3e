"""The private names of torch that Sparseout uses, one small function for each question that torch has no public name for."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch._C import _functorch
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import get_proxy_mode

# Looked up once: the op asks some of these questions in every call.
_level, _dispatch_modes = _functorch.maybe_current_level, torch._C._len_torch_dispatch_stack
_tracing_state = torch._C._get_tracing_state
_graph_task, _forward_mode_enabled = torch._C._current_graph_task_id, torch._C._is_fwd_grad_enabled
_top_hooks = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)  # torch 2.8 or later
_exporting = getattr(torch.compiler, "is_exporting", bool)  # torch 2.7 or later


def is_functorch_active() -> bool:
    """Return whether a transform of `torch.func`, such as `vmap` or `grad`, is active."""
    return _level() is not None


def is_transforming() -> bool:
    """Return whether a transform of `torch.func`, or forward-mode AD, is active."""
    return _level() is not None or forward_ad._current_level >= 0


def is_tracing() -> bool:
    """Return whether `torch.jit.trace` is recording."""
    return _tracing_state() is not None


def is_exporting() -> bool:
    """Return whether `torch.export` is tracing. Torch 2.6 cannot tell."""
    return bool(_exporting())


def is_dispatch_mode_active() -> bool:
    """Return whether a `TorchDispatchMode`, such as a `FakeTensorMode` or a profiler's counter, sees each operator."""
    return _dispatch_modes() > 0


def is_proxy_mode_active() -> bool:
    """Return whether `make_fx` is recording a graph."""
    return get_proxy_mode() is not None


def is_in_backward_pass() -> bool:
    """Return whether autograd is running a backward pass, in which activation checkpointing computes a call again."""
    return _graph_task() != -1


def is_in_autograd_function() -> bool:
    """Return whether the forward pass of an autograd function runs, such as a reentrant checkpoint or a compiled graph.

    It records no gradients. Unlike `no_grad`, it switches off forward-mode AD too.
    """
    return not (torch.is_grad_enabled() or _forward_mode_enabled() or torch.is_inference_mode_enabled())


def may_be_recomputed() -> bool:
    """Return whether activation checkpointing may compute the present call again. Before torch 2.8, that is always possible."""
    return _top_hooks is None or _top_hooks(True) is not None or is_in_autograd_function()


def is_fake(tensor: Tensor) -> bool:
    """Return whether `tensor` is a `FakeTensor`, which has a shape and no values."""
    return isinstance(tensor, FakeTensor)


def is_legacy_batched(tensor: Tensor) -> bool:
    """Return whether `tensor` belongs to the `vmap` that autograd uses for batched gradients."""
    return bool(_functorch.is_legacy_batchedtensor(tensor))


def is_freed(tensor: Tensor) -> bool:
    """Return whether the storage that `tensor` should have was freed, so that torch too would read memory that is not there."""
    try:
        if tensor.untyped_storage().nbytes() > 0 or tensor.numel() == 0:
            return False
    except RuntimeError:  # a transform's tensor has no storage
        return False
    keys, key = torch._C._dispatch_keys(tensor), torch._C.DispatchKey
    return not any(keys.has(other) for other in (key.Python, key.Meta, key.ZeroTensor, key.Functionalize))


def is_view(tensor: Tensor) -> bool:
    """Return whether autograd records `tensor` as a view of another tensor."""
    return tensor._is_view()


def version_of(tensor: Tensor) -> int | None:
    """Return the number of times that `tensor` was written in place, or None for an inference tensor, which counts none."""
    return None if tensor.is_inference() else tensor._version


def uncompiled(model: nn.Module) -> nn.Module:
    """Return the module that `torch.compile` wrapped, or `model` itself."""
    original: nn.Module = getattr(model, "_orig_mod", model)
    return original


def is_running(model: nn.Module) -> bool:
    """Return whether this is called from within a call of `model`."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code is nn.Module._call_impl.__code__ and frame.f_locals.get("self") is model:
            return True
        frame = frame.f_back
    return False


def direct_apply(function: type[torch.autograd.Function]) -> Callable[..., Any]:
    """Return `function.apply` for calls outside the transforms of `torch.func`, for which `apply` itself looks first."""
    apply: Callable[..., Any] = super(torch.autograd.Function, function).apply  # type: ignore[misc]
    return apply


def without_torch_function() -> contextlib.AbstractContextManager[Any]:
    """Return a context in which subclasses of tensors do not see the functions that are called on them."""
    return torch._C.DisableTorchFunctionSubclass()


def without_dispatch_modes() -> contextlib.AbstractContextManager[Any]:
    """Return a context in which no `TorchDispatchMode`, such as selective checkpointing's, sees the operators."""
    if _dispatch_modes() or torch._ops._len_torch_dispatch_stack_pre_dispatch():
        return torch.utils._python_dispatch._disable_current_modes()
    return contextlib.nullcontext()


def broadcast(tensor: Tensor, mesh: Any, mesh_dim: int) -> Tensor:
    """Return the tensor of the first rank along a dimension of a mesh, in an operation that a compiler traces."""
    from torch.distributed import _functional_collectives as collectives

    received: Tensor = collectives.wait_tensor(collectives.broadcast(tensor, 0, (mesh, mesh_dim)))
    return received


def all_reduce(tensor: Tensor, mesh: Any, mesh_dim: int) -> Tensor:
    """Return the sum of a tensor along a dimension of a mesh, in an operation that a compiler traces."""
    from torch.distributed import _functional_collectives as collectives

    total: Tensor = collectives.wait_tensor(collectives.all_reduce(tensor, "sum", (mesh, mesh_dim)))
    return total


def is_async_collective(tensor: Tensor) -> bool:
    """Return whether `tensor` is the result of a collective operation that may still run."""
    collectives = sys.modules.get("torch.distributed._functional_collectives")  # if not imported, it made no tensor
    return collectives is not None and isinstance(tensor, collectives.AsyncCollectiveTensor)
