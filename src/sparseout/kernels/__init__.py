"""Which implementation computes a call: the compiled kernel where it can, else the reference."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch._C import _functorch

from sparseout import reference
from sparseout.kernels import cpu

Backend = Literal["cpu", "reference"]


def choose(input: Tensor, shared_dims: tuple[int, ...], backend: Backend | None) -> Backend:
    """The backend that was asked for, or the fastest one that can take `input`.

    Raises:
        ValueError: the backend that was asked for cannot take `input`.
    """
    if backend == "reference":
        return backend
    reason = _why_not_cpu(input, shared_dims)
    if backend == "cpu" and reason:
        raise ValueError(f"backend 'cpu' cannot be used here: {reason}")
    return "reference" if reason else "cpu"


def forward(input: Tensor, p: float, q: float, seed: Tensor, shared_dims: tuple[int, ...], backend: Backend) -> Tensor:
    """`reference.forward`, by the backend that was chosen."""
    if backend == "cpu":
        return cpu.forward(input, p, q, int(seed))
    return reference.forward(input, p, q, seed, shared_dims)


def backward(
    grad: Tensor,
    input: Tensor | None,
    p: float,
    q: float,
    seed: Tensor,
    gradient: str,
    eps: float,
    shared_dims: tuple[int, ...],
    backend: Backend,
) -> Tensor:
    """`reference.backward`, by the backend that was chosen; by the reference where autograd or a transform must follow it."""
    if backend == "cpu" and _is_plain(grad) and not torch.is_grad_enabled():
        return cpu.backward(grad.contiguous(), input, p, q, int(seed), gradient, eps)
    return reference.backward(grad, input, p, q, seed, gradient, eps, shared_dims)


def _why_not_cpu(input: Tensor, shared_dims: tuple[int, ...]) -> str | None:
    """Why the compiled CPU kernel cannot take `input`, or None if it can."""
    if input.device.type != "cpu":
        return f"input is on {input.device}"
    if cpu.LIBRARY is None:
        return cpu.MISSING
    if shared_dims:
        return "the kernel takes no shared_dims"
    if not input.is_contiguous():
        return "the kernel takes contiguous input alone"
    return None if _is_plain(input) else "input is wrapped by a transform or a subclass"


def _is_plain(tensor: Tensor) -> bool:
    """Whether `tensor` has memory that a kernel may read: no subclass, no transform of `torch.func` around it."""
    transformed = _functorch.peek_interpreter_stack() is not None or _functorch.is_legacy_batchedtensor(tensor)
    return type(tensor) in (Tensor, nn.Parameter) and not transformed
