"""The GPU kernel: whether it can be used, and a launch a pass. `gpu_kernel.py` beside this file is what runs on the device."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import itertools
import operator
import struct

import torch
from torch import Tensor

from sparseout import reference

_BLOCK = 2048  # elements a program, a multiple of 32
_WARPS = 4
_NARROW = 2**31  # positions and offsets below this are computed in 32 bits


def _why_missing() -> str:
    if torch.version.cuda is None and torch.version.hip is None:
        return "this build of torch has no GPU support"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    return "" if torch.__version__ >= (2, 7) else f"the kernel needs torch 2.7 and its triton 3.3, this is torch {torch.__version__}"


MISSING = _why_missing()


def forward(input: Tensor, p: float, q: float, seed: Tensor, shared_dims: tuple[int, ...]) -> Tensor:
    """`reference.forward` of a tensor of any strides on the GPU. `seed` is read there, so that nothing waits for it."""
    output = torch.empty_like(input)
    if reference.is_product(p, q):
        return _launch(None, input, output, p, _scale(p, input.dtype), seed, shared_dims)
    return _launch(input, None, output, p, _up(p, input.dtype), seed, shared_dims, q / 2)


def backward(
    grad: Tensor,
    input: Tensor | None,
    p: float,
    q: float,
    seed: Tensor,
    gradient: str,
    eps: float,
    shared_dims: tuple[int, ...],
) -> Tensor:
    """`reference.backward` of tensors of any strides on the GPU."""
    output = torch.empty_like(grad)
    if input is None or reference.is_product(p, q):
        return _launch(None, grad, output, p, _scale(p, grad.dtype), seed, shared_dims)
    coefficient = q / 2 if gradient == "exact" else 1.0
    return _launch(input, grad, output, p, _up(p, grad.dtype), seed, shared_dims, (q - 2) / 2, eps, coefficient)


def _launch(
    input: Tensor | None,
    grad: Tensor | None,
    output: Tensor,
    p: float,
    up: float,
    seed: Tensor,
    shared_dims: tuple[int, ...],
    exponent: float = 0.0,
    eps: float = 0.0,
    coefficient: float = 1.0,
) -> Tensor:
    """Write `output`: without `input`, `grad` times 0 or `up`; else the forward pass without `grad` and the backward with it."""
    from sparseout.kernels.gpu_kernel import kernel

    count = output.numel()
    if count == 0:
        return output
    layouts = (tensor.stride() for tensor in (output, output if input is None else input, output if grad is None else grad))
    sizes, strides, reach = _walk(output.shape, tuple(layouts), shared_dims)
    quarters = 4 * exponent
    with torch.cuda.device_of(output):
        kernel[(-(-count // _BLOCK),)](
            input,
            grad,
            output,
            seed,
            sizes,
            *strides,
            count,
            round(p * 2**32),
            *(_bits(number) for number in (up, min(exponent, 2.0**63), eps, coefficient)),
            QUARTERS=int(quarters) if quarters in range(-4, 9) else None,
            WIDE=reach + _BLOCK > _NARROW,
            BLOCK=_BLOCK,
            num_warps=_WARPS,
            enable_fp_fusion=True,
        )
    return output


@functools.lru_cache(maxsize=1024)
def _walk(
    shape: tuple[int, ...], layouts: tuple[tuple[int, ...], ...], shared_dims: tuple[int, ...]
) -> tuple[tuple[int, ...], list[tuple[int, ...]], int]:
    """How to go through the tensors of `layouts`, and the mask, in the order of the first one's memory, which must be dense.

    Returns:
        Sizes, the fastest first, where dimensions are one if they can be in every tensor; strides for each tensor after the first
        and for the mask, none where they are the first one's; and the largest number of elements that any of them spans.
    """
    mask, step = [0] * len(shape), 1
    for dim in reversed(range(len(shape))):
        if dim not in shared_dims:
            mask[dim] = step
            step *= shape[dim]
    sizes: list[int] = []
    steps: list[list[int]] = []
    for size, *outer in sorted(zip(shape, *layouts, mask, strict=True), key=operator.itemgetter(1)):
        if sizes and all(stride == inner * sizes[-1] for stride, inner in zip(outer, steps[-1], strict=True)):
            sizes[-1] *= size
        elif size > 1:
            sizes.append(size)
            steps.append(outer)
    first, *rest = (tuple(step[tensor] for step in steps) for tensor in range(len(layouts) + 1))
    reach = max(1 + sum((size - 1) * stride for size, stride in zip(sizes, tensor)) for tensor in (first, *rest))
    return tuple(sizes), [() if strides == first else strides for strides in rest], reach


def _scale(p: float, dtype: torch.dtype) -> float:
    """`1 / (1 - p)`, which the kernel rounds once in the dtype that it computes in; all is dropped for `p = 1`."""
    keep = 1 - p if dtype == torch.float64 else ctypes.c_float(1 - p).value
    return 1 / keep if p < 1 else 0.0


def _up(p: float, dtype: torch.dtype) -> float:
    """The noise of a kept element, `p / (1 - p)`, never 0: an infinite power would make NaN of it."""
    return max(p / (1 - p), torch.finfo(torch.promote_types(dtype, torch.float32)).tiny)


def _bits(number: float) -> int:
    """The bits of a float64 as an integer: Triton would round the float itself to float32."""
    return int.from_bytes(struct.pack("<d", number), "little", signed=True)
