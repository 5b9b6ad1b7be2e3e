"""The GPU kernel: whether it can be used, and a launch a pass. `gpu_kernel.py` beside this file is what runs on the device."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import struct
from operator import itemgetter

import torch
from torch import Tensor

from sparseout.op import reference
from sparseout.op.scale import absorb

_BLOCK = 2048  # elements a program, a multiple of 32: 16 a thread
_WARPS = 4
_NARROW = 2**31  # offsets below this take 32 bits


def _why_missing() -> str:
    if torch.version.cuda is None and torch.version.hip is None:
        return "this build of torch is for the CPU alone"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    return "" if torch.__version__ >= "2.7" else f"it needs torch 2.7 or later, for its Triton 3.3; this is {torch.__version__}"


MISSING = _why_missing()


def forward(input: Tensor, p: float, q: float, seed: Tensor, shared_dims: tuple[int, ...], scale: float | Tensor = 1.0) -> Tensor:
    """`reference.forward` on a GPU, for a tensor of any strides. Nothing waits for `seed` or `scale`, which stay there."""
    output = torch.empty_like(input)
    if reference.is_multiplicative(p, q):
        return _launch(None, input, output, p, seed, shared_dims)
    return _launch(input, None, output, p, seed, shared_dims, q, scale)


def backward(
    grad: Tensor,
    input: Tensor | None,
    p: float,
    q: float,
    seed: Tensor,
    gradient: str,
    eps: float,
    shared_dims: tuple[int, ...],
    scale: float | Tensor = 1.0,
) -> Tensor:
    """`reference.backward` on a GPU, for tensors of any strides."""
    output = torch.empty_like(grad)
    if input is None or reference.is_multiplicative(p, q):
        return _launch(None, grad, output, p, seed, shared_dims)
    coefficient = q / 2 if gradient == "exact" else 1.0
    return _launch(input, grad, output, p, seed, shared_dims, q, scale, eps, coefficient)


def _launch(
    input: Tensor | None,
    grad: Tensor | None,
    output: Tensor,
    p: float,
    seed: Tensor,
    shared_dims: tuple[int, ...],
    q: float = 2.0,
    scale: float | Tensor = 1.0,
    eps: float = 0.0,
    coefficient: float = 1.0,
) -> Tensor:
    """Write `output`: `grad` times the mask without `input`, else the forward pass without `grad` and the backward with it."""
    from sparseout.op.gpu_kernel import kernel

    count = output.numel()
    limits = torch.finfo(torch.promote_types(output.dtype, torch.float32))
    # Never 0, of which an infinite power would make NaN.
    up = _scale(p, output.dtype) if input is None else max(p / (1 - p), limits.tiny)
    strides = tuple((output if tensor is None else tensor).stride() for tensor in (output, input, grad))
    sizes, walks, reach = _walk(output.shape, strides, shared_dims)
    if not isinstance(scale, Tensor):
        coefficient, eps = absorb(coefficient, eps, scale, q, output.dtype)
    exponent = q / 2 if grad is None else (q - 2) / 2 if coefficient >= limits.tiny else 0.0  # as in `reference.backward`
    quarters = 4 * exponent
    with torch.cuda.device_of(output):
        kernel[(-(-count // _BLOCK),)](
            input,
            grad,
            output,
            seed,
            scale if isinstance(scale, Tensor) else None,
            sizes,
            *walks,
            count,
            round(p * 2**32),
            _bits(up),
            _bits(min(exponent, 2.0**63)),  # any higher power of a float64 but 1 is 0 or infinite too
            _bits(eps),
            _bits(min(coefficient, limits.max)),
            quarters=int(quarters) if quarters in range(-4, 9) else None,
            wide=reach + _BLOCK > _NARROW,
            block_size=_BLOCK,
            num_warps=_WARPS,
            enable_fp_fusion=True,
        )
    return output


@functools.lru_cache(maxsize=1024)
def _walk(
    shape: tuple[int, ...], strides: tuple[tuple[int, ...], ...], shared_dims: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...], int]:
    """How to go through tensors and the mask in the order in which the first tensor, which must be dense, lies in memory.

    Returns:
        The sizes, the fastest first, with dimensions merged where they are one in every tensor; for each further tensor and for
        the mask its strides, none where it lies as the first does; and the largest number of elements that any of them spans.

    >>> _walk((2, 3, 4), ((12, 4, 1), (12, 1, 3)), ())  # the second tensor is transposed
    ((4, 3, 2), ((3, 1, 12), ()), 24)
    >>> _walk((2, 3, 4), ((12, 4, 1), (12, 4, 1)), (2,))
    ((4, 6), ((), (0, 1)), 24)
    """
    mask, step = [0] * len(shape), 1
    for dim in reversed(range(len(shape))):
        if dim not in shared_dims:
            mask[dim] = step
            step *= shape[dim]
    sizes: list[int] = []
    inner: list[list[int]] = []
    for size, *outer in sorted(zip(shape, *strides, mask, strict=True), key=itemgetter(1)):
        if sizes and all(after == before * sizes[-1] for after, before in zip(outer, inner[-1], strict=True)):
            sizes[-1] *= size
        elif size > 1:
            sizes.append(size)
            inner.append(outer)
    first, *rest = (tuple(row[tensor] for row in inner) for tensor in range(len(strides) + 1))
    reach = max(1 + sum((size - 1) * stride for size, stride in zip(sizes, walk, strict=True)) for walk in (first, *rest))
    return tuple(sizes), tuple(() if walk == first else walk for walk in rest), reach


def _scale(p: float, dtype: torch.dtype) -> float:
    """`1 / (1 - p)`, which becomes the reference's when the kernel rounds it to the dtype that it computes in."""
    keep = 1 - p if dtype == torch.float64 else ctypes.c_float(1 - p).value
    return 1 / keep if p < 1 else 0.0


def _bits(number: float) -> int:
    """The bits of a float64, which Triton would round to float32 if it were passed as a float."""
    return int.from_bytes(struct.pack("<d", number), "little", signed=True)
