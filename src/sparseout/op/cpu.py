"""The compiled CPU kernel: one call of the native library for each pass."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from sparseout.native.library import AVAILABLE, LIBRARY
from sparseout.op import reference
from sparseout.op.scale import FREED, absorb

_KINDS = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}
_SMALLEST_NORMAL = {dtype: torch.finfo(torch.promote_types(dtype, torch.float32)).tiny for dtype in _KINDS}

used = len(AVAILABLE) - 1  # index of the instruction set that calls use; tests also select slower ones


def forward(
    input: Tensor,
    p: float,
    q: float,
    seed: int,
    shared_dims: tuple[int, ...] = (),
    scale: float = 1.0,
    output: Tensor | None = None,
) -> Tensor:
    """`reference.forward` on the CPU, into `output` where it is given; that may be `input`."""
    output = torch.empty_like(input) if output is None else output
    coefficient, _ = absorb(1.0, 0.0, scale, q, input.dtype)
    _run(None, input, output, p, q, seed, q / 2, 0.0, coefficient, shared_dims)
    return output


def backward(
    grad: Tensor,
    input: Tensor | None,
    p: float,
    q: float,
    seed: int,
    gradient: str,
    eps: float,
    shared_dims: tuple[int, ...] = (),
    scale: float = 1.0,
) -> Tensor:
    """`reference.backward` on the CPU."""
    output = torch.empty_like(grad)
    coefficient, eps = absorb(q / 2 if gradient == "exact" else 1.0, eps, scale, q, grad.dtype)
    # A coefficient that rounds to 0 makes any power 0; an infinite one would make it NaN.
    exponent = (q - 2) / 2 if coefficient >= _SMALLEST_NORMAL[grad.dtype] else 0.0
    _run(grad, input, output, p, q, seed, exponent, eps, coefficient, shared_dims)
    return output


def _run(
    grad: Tensor | None,
    input: Tensor | None,
    output: Tensor,
    p: float,
    q: float,
    seed: int,
    exponent: float,
    eps: float,
    coefficient: float,
    shared_dims: tuple[int, ...],
) -> None:
    assert LIBRARY is not None
    contiguous = (
        output.is_contiguous()
        and (grad is None or grad.is_contiguous())
        and (input is None or input.is_contiguous())
        and not shared_dims
    )
    at = None if input is None else input.data_ptr()
    if not at and input is not None and input.numel():
        raise RuntimeError(FREED)
    LIBRARY.sparseout_run(
        _KINDS[output.dtype],
        None if grad is None else grad.data_ptr(),
        at,
        output.data_ptr(),
        output.numel(),
        None if contiguous else _layout(grad, input, output, shared_dims),
        output.dim(),
        seed & 0xFFFFFFFFFFFFFFFF,
        round(p * 2**32),
        reference.is_multiplicative(p, q),
        p,
        exponent,
        eps,
        coefficient,
        torch.get_num_threads(),
        used,
    )


def _layout(
    grad: Tensor | None, input: Tensor | None, output: Tensor, shared_dims: tuple[int, ...]
) -> ctypes.Array[ctypes.c_int64]:
    """The sizes, each tensor's strides, and the steps of the mask's row-major index in the shape that `shared_dims` reduce."""
    shape, dims = output.shape, output.dim()
    steps, step = [0] * dims, 1
    for dim in reversed(range(dims)):
        if dim not in shared_dims:
            steps[dim], step = step, step * shape[dim]
    strides = [(0,) * dims if tensor is None else tensor.stride() for tensor in (grad, input)]
    return (ctypes.c_int64 * (5 * dims))(*shape, *strides[0], *strides[1], *output.stride(), *steps)
