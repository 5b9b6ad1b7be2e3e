"""The GPU kernel: whether it can be used, and one launch for each pass. `gpu_kernel.py` has the code that runs on the device."""

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
from sparseout.op.settings import Settings

_BLOCK = 2048  # elements per program, a multiple of 32: 16 per thread
_WARPS = 4
_NARROW = 2**31  # offsets below this take 32 bits


def _why_missing() -> str:
    if torch.version.cuda is None and torch.version.hip is None:
        return "this build of torch is for the CPU only"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    return "" if torch.__version__ >= "2.7" else f"it needs torch 2.7 or later, for Triton 3.3; this is {torch.__version__}"


MISSING = _why_missing()


def forward(input: Tensor, seed: Tensor, settings: Settings) -> Tensor:
    """Compute `reference.forward` on a GPU, for a tensor of any strides, without waiting for `seed` or the scale."""
    output = torch.empty_like(input)
    if reference.is_multiplicative(settings.p, settings.q):
        return _launch(None, input, output, seed, settings)
    return _launch(input, None, output, seed, settings)


def backward(grad: Tensor, input: Tensor | None, seed: Tensor, settings: Settings) -> Tensor:
    """Compute `reference.backward` on a GPU, for tensors of any strides."""
    output = torch.empty_like(grad)
    if input is None or reference.is_multiplicative(settings.p, settings.q):
        return _launch(None, grad, output, seed, settings)
    return _launch(input, grad, output, seed, settings)


def _launch(input: Tensor | None, grad: Tensor | None, output: Tensor, seed: Tensor, settings: Settings) -> Tensor:
    """Write and return `output`: the forward pass, with `grad` the backward pass, and without `input` the masked `grad`."""
    from sparseout.op.gpu_kernel import kernel

    p, q, scale = settings.p, settings.q, settings.scale
    count = output.numel()
    limits = torch.finfo(torch.promote_types(output.dtype, torch.float32))
    strides = tuple((output if tensor is None else tensor).stride() for tensor in (output, input, grad))
    sizes, walks, reach = _walk(output.shape, strides, settings.shared_dims)
    coefficient, eps, exponent = 1.0, 0.0, 0.0
    if input is None:
        up, scale = _dropout_scale(p, output.dtype), None
    else:
        up = max(p / (1 - p), limits.tiny)  # never 0, of which an infinite power would make NaN
        if grad is not None:
            coefficient, eps = reference.gradient_coefficient(settings), settings.eps
        if not isinstance(scale, Tensor):
            coefficient, eps = absorb(coefficient, eps, settings, output.dtype)
            scale = None
        exponent = q / 2 if grad is None else reference.gradient_exponent(q, coefficient, output.dtype)
    quarters = 4 * exponent
    with torch.cuda.device_of(output):
        kernel[(-(-count // _BLOCK),)](
            input,
            grad,
            output,
            seed,
            scale,
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
    """Return the sizes and strides to read tensors and the mask in the memory order of the first tensor, which must be dense.

    Returns:
        The sizes, the fastest dimension first, with dimensions merged if that is possible in every tensor; the strides of each
        further tensor and of the mask, or an empty tuple if they equal those of the first; and the largest number of elements
        that any of them spans.

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


def _dropout_scale(p: float, dtype: torch.dtype) -> float:
    """Return `1 / (1 - p)`, which equals the reference's once the kernel rounds it to the dtype of its arithmetic."""
    keep = 1 - p if dtype == torch.float64 else ctypes.c_float(1 - p).value
    return 1 / keep if p < 1 else 0.0


def _bits(number: float) -> int:
    """Return the bits of a float64. Triton would round it to float32 if it were passed as a float."""
    return int.from_bytes(struct.pack("<d", number), "little", signed=True)
