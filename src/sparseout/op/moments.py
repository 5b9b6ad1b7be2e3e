"""The moments `E|x|^k` of a layer's input at a few norms, and the scale at which noise of any `q` has the variance of Dropout's.

The variance of the noise over a layer is `p/(1-p) s^(2-q) E|x|^q`, and Dropout's is `p/(1-p) E x^2`. They are equal at

    s_q = (E x^2 / E|x|^q)^(1/(2-q)) = r R_q^(-1/(2-q))        r^2 = E x^2, R_q = E|x/r|^q

a Gini mean of the magnitudes: the root mean square of the units that are not 0 at `q = 0`, and larger for a larger `q`.
`log R_q` is a smooth, convex function of `q` with `R_2 = 1`. So a polynomial through the nearest of `NORMS` gives it for any `q`.
"""

from __future__ import annotations

import ctypes
import functools

import torch
from torch import Tensor

from sparseout.native.library import LIBRARY
from sparseout.op import backends

NORMS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0)  # native/moments.c has them too
TWO = NORMS.index(2.0)
_NEAREST = 5  # norms per polynomial
_ABOVE_0 = 1e-30  # as an exponent, it gives 0 at 0, and 1 for every other number


@functools.lru_cache(maxsize=256)
def weights_of(q: float) -> tuple[float, ...]:
    """Return `w` with `s_q = r exp(sum_k w_k log R_k)`, one weight for each of `NORMS`. Above `q = 8`, return those of 8.

    `L(q) / (q - 2)` with the polynomial `L` through the nearest `log R_k`. As `log R_2 = 0`, the factor `q - 2` cancels near 2.

    >>> weights_of(1.0)[NORMS.index(1.0)], weights_of(2.0)[TWO]
    (-1.0, 0.0)
    """
    q = min(q, NORMS[-1])
    nearest = sorted(sorted(NORMS, key=lambda norm: abs(norm - q))[:_NEAREST])
    weights = dict.fromkeys(NORMS, 0.0)
    for norm in nearest:
        if norm == 2:
            continue
        others = [other for other in nearest if other not in (norm, 2)]
        weight = 1 / (norm - 2) if 2 in nearest else 1 / (q - 2)
        for other in others:
            weight *= (q - other) / (norm - other)
        weights[norm] = weight
    return tuple(weights.values())


@functools.lru_cache(maxsize=256)
def compiled_weights(q: float) -> ctypes.Array[ctypes.c_double]:
    """Return `weights_of(q)` as compiled code reads them."""
    return (ctypes.c_double * len(NORMS))(*weights_of(q))


def moments_of(some: Tensor) -> Tensor:
    """Return the moments of a `sample`, of shape `(12,)`: `E|x/r|^k` for each of `NORMS`, but `r` itself at norm 2.

    The others are zero if `r` is not positive and finite in float32. float64, but float32 on a device without it.
    """
    if some.is_cpu and backends.choose(some) == "cpu":
        assert LIBRARY is not None
        result = torch.empty(len(NORMS), dtype=torch.float64, device="cpu")
        is_double, step = some.dtype == torch.float64, some.stride(0)
        LIBRARY.sparseout_moments(is_double, some.data_ptr(), len(some), step, result.data_ptr())
        return result
    wide = some if some.device.type == "mps" else some.double()
    size = wide.square().sum().div(max(len(some), 1)).sqrt()
    sizes = (wide.abs() / size).to(some.dtype)
    powers = sizes[:, None].pow(_exponents(some.device, some.dtype)).mean(0, dtype=wide.dtype)
    return with_size(torch.where(is_scale(size), powers, 0.0), size)


def with_size(moments: Tensor, size: Tensor) -> Tensor:
    """Return the moments with `size` at norm 2."""
    return torch.cat([moments[:TWO], size.reshape(1), moments[TWO + 1 :]])


def is_scale(value: Tensor) -> Tensor:
    """Return whether numbers are positive and finite in their dtype, and in float32."""
    largest = min(torch.finfo(value.dtype).max, torch.finfo(torch.float32).max)
    return (value > 0) & (value <= largest)


def shape_factor(moments: Tensor, q: float) -> Tensor:
    """Return `s_q / r` from relative moments, `E|x/r|^k`."""
    logs, total = moments.log(), torch.zeros_like(moments[0])
    for index, weight in enumerate(weights_of(q)):
        if weight:
            total = torch.add(total, logs[index], alpha=weight)
    return total.exp()


def update(value: Tensor, moments: Tensor, batch: Tensor, momentum: float, q: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the scale of a call, and the value and the moments after it, in the dtype of `batch`.

    Args:
        value: the running root mean square `s`, 0-d; a number that is not positive and finite means that there is none.
        moments: the running moments `E|x/s|^k`, likewise.
        batch: `moments_of` the batch.
        momentum: weight of the batch.
        q: norm.
    """
    known, complete = is_scale(value), is_scale(value) & is_scale(moments).all()
    old, before, size = value.to(batch.dtype), moments.to(batch.dtype), batch[TWO]
    relative, counts = with_size(batch, torch.ones_like(size)), is_scale(size)
    used = torch.where(complete, before, torch.where(counts, relative, 1.0))
    scale = torch.where(known, old, torch.where(counts, size, 1.0)) * shape_factor(used, q)
    after = torch.where(known, torch.hypot(old * (1 - momentum) ** 0.5, size * momentum**0.5), size)
    exponents = _exponents(batch.device, batch.dtype)
    kept = (1 - momentum) * before * (old / after).pow(exponents)
    mixed = torch.where(complete, kept + momentum * relative * (size / after).pow(exponents), relative)
    return scale, torch.where(counts, after, old), torch.where(counts, mixed, before)


@functools.lru_cache(maxsize=64)
def _exponents(device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor([norm or _ABOVE_0 for norm in NORMS], dtype=dtype, device=device)
