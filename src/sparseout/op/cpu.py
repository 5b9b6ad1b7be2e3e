"""The compiled CPU kernel: one call of the native library for each pass."""

from __future__ import annotations

import ctypes
import functools
from typing import TypeAlias

import torch
from torch import Tensor

from sparseout.checks import Gradient
from sparseout.native.library import AVAILABLE, LIBRARY
from sparseout.op import reference
from sparseout.op.settings import Settings

_Strides: TypeAlias = tuple[int, ...]
_Numbers: TypeAlias = "ctypes.Array[ctypes.c_int64]"

_KINDS = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}

used = len(AVAILABLE) - 1  # index of the instruction set that calls use; tests also select slower ones


def forward(input: Tensor, seed: int, settings: Settings, output: Tensor | None = None) -> Tensor:
    """Compute `reference.forward` on the CPU, into `output` if it is given; that may be `input`."""
    output = torch.empty_like(input) if output is None else output
    _run(None, input, output, seed, settings)
    return output


def backward(grad: Tensor, input: Tensor | None, seed: int, settings: Settings) -> Tensor:
    """Compute `reference.backward` on the CPU."""
    output = torch.empty_like(grad)
    _run(grad, input, output, seed, settings)
    return output


def _run(grad: Tensor | None, input: Tensor | None, output: Tensor, seed: int, settings: Settings) -> None:
    assert LIBRARY is not None
    p, q, scale, gradient, eps, shared_dims = settings
    contiguous = (
        output.is_contiguous()
        and (grad is None or grad.is_contiguous())
        and (input is None or input.is_contiguous())
        and not shared_dims
    )
    LIBRARY.sparseout_run(
        _prepared(output.dtype, p, q, gradient, used),
        None if grad is None else grad.data_ptr(),
        None if input is None else input.data_ptr(),
        output.data_ptr(),
        output.numel(),
        None if contiguous else _layout(output.shape, _strides(grad), _strides(input), output.stride(), shared_dims),
        seed & 0xFFFFFFFFFFFFFFFF,
        float(scale),
        eps,
        torch.get_num_threads(),
    )


@functools.lru_cache(maxsize=256)
def _prepared(dtype: torch.dtype, p: float, q: float, gradient: Gradient, instruction_set: int) -> ctypes.Array[ctypes.c_char]:
    """Return the settings of both passes as compiled code reads them, with their tables for powers."""
    assert LIBRARY is not None
    prepared = ctypes.create_string_buffer(LIBRARY.sparseout_settings_size())
    multiplicative, factor = reference.is_multiplicative(p, q), q / 2 if gradient == "exact" else 1.0
    LIBRARY.sparseout_prepare(prepared, _KINDS[dtype], round(p * 2**32), multiplicative, p, q, factor, instruction_set)
    return prepared


def _strides(tensor: Tensor | None) -> _Strides | None:
    return None if tensor is None else tensor.stride()


@functools.lru_cache(maxsize=256)
def _layout(
    shape: torch.Size, grad: _Strides | None, input: _Strides | None, output: _Strides, shared_dims: tuple[int, ...]
) -> _Numbers:
    """Return the sizes, the strides of each tensor, and the steps of the mask's row-major index, which are 0 in `shared_dims`."""
    dims = len(shape)
    steps, step = [0] * dims, 1
    for dim in reversed(range(dims)):
        if dim not in shared_dims:
            steps[dim], step = step, step * shape[dim]
    absent = (0,) * dims
    return (ctypes.c_int64 * (1 + 5 * dims))(dims, *shape, *(grad or absent), *(input or absent), *output, *steps)
