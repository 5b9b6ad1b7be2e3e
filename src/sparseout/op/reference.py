"""The mathematics of Sparseout and its random numbers in plain torch: the oracle for every kernel.

`philox` is the generator, `random_words` numbers the elements, `keep_mask` draws the mask, and `forward` and `backward` are the
op. Each is a pure function of its arguments: the same seed gives the same mask on any device, in any dtype and memory layout.
`p`, `q` and the scale are numbers, or 0-d tensors in the graph of a compiler, which fuses these expressions with others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sparseout.op.settings import Number, Settings

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_TINY32, _TINY64 = torch.finfo(torch.float32).tiny, torch.finfo(torch.float64).tiny
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)


def philox(counter: Sequence[Tensor | int], key: Sequence[Tensor | int], rounds: int = 7) -> list[Tensor]:
    """Philox-4x32: `rounds` times `(c0, c1, c2, c3) <- (hi(M1 c2) ^ c1 ^ k0, lo(M1 c2), hi(M0 c0) ^ c3 ^ k1, lo(M0 c0))`.

    Args:
        counter: four words of the counter: int64 tensors or integers, with values below 2^32, that broadcast together.
        key: two words of the key, likewise.
        rounds: 7 rounds pass the authors' tests for crush resistance; their default is 10.

    Returns:
        Four int64 tensors of words below 2^32.

    Source: Salmon, Moraes, Dror and Shaw (2011), *Parallel random numbers: as easy as 1, 2, 3*.

    >>> zero = torch.zeros((), dtype=torch.int64)
    >>> [hex(int(word)) for word in philox([zero] * 4, [zero] * 2)]
    ['0x5f6fb709', '0xd893f64', '0x4f121f81', '0x4f730a48']
    """
    c0, c1, c2, c3 = (torch.as_tensor(word) for word in counter)
    k0, k1 = key
    for _ in range(rounds):
        # int64 products wrap modulo 2^64, so their bit pattern is that of the unsigned product.
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0 = (product1 >> 32 & _WORD) ^ c1 ^ k0
        c2 = (product0 >> 32 & _WORD) ^ c3 ^ k1
        c1, c3 = product1 & _WORD, product0 & _WORD
        k0, k1 = (k0 + _KEY_STEPS[0]) & _WORD, (k1 + _KEY_STEPS[1]) & _WORD
    return [c0, c1, c2, c3]


def random_words(count: int, seed: Tensor | int, device: torch.device | str | None = None) -> Tensor:
    """`word(i) = philox(counter = 8 floor(i / 32) + i mod 8, key = seed)[floor((i mod 32) / 8)]` for `i < count`.

    Args:
        count: number of elements.
        seed: 64 bits, an integer or an int64 tensor of one element on `device`.
        device: device of the result.

    Returns:
        An int64 tensor `(count,)` of words below 2^32.
    """
    if torch.compiler.is_compiling():
        return words_at(torch.arange(count, device=device), seed)
    blocks = (count + 31) // 32
    counter = torch.arange(8 * blocks, dtype=torch.int64, device=device)
    words = philox([counter & _WORD, counter >> 32, 0, 0], [seed & _WORD, seed >> 32 & _WORD])
    return torch.stack([word.reshape(blocks, 8) for word in torch.broadcast_tensors(*words)], dim=1).reshape(-1)[:count]


def words_at(index: Tensor, seed: Tensor | int) -> Tensor:
    """`word(i)` for each element of `index`, in one pointwise expression: see `random_words`.

    It generates four words for each one that it returns, so it is slow unless a compiler fuses it.
    """
    counter, column = index // 32 * 8 + index % 8, index % 32 // 8
    words = philox([counter & _WORD, counter >> 32, 0, 0], [seed & _WORD, seed >> 32 & _WORD])
    return torch.where(column < 2, torch.where(column == 0, words[0], words[1]), torch.where(column == 2, words[2], words[3]))


def keep_mask(
    shape: Sequence[int],
    p: Number,
    seed: Tensor | int,
    shared_dims: Sequence[int] = (),
    device: torch.device | str | None = None,
) -> Tensor:
    """`m_i = word(i) >= round(p 2^32)`: element `i` is dropped (False) with probability `p`.

    Args:
        shape: shape of the input.
        p: drop probability in [0, 1].
        seed: see `random_words`.
        shared_dims: dimensions along which one draw is shared. The mask has size 1 there, and `i` counts its elements.
        device: device of the result.

    Returns:
        A bool tensor of the reduced shape, which broadcasts with the input; `i` is the row-major index.

    >>> keep_mask((2, 3), 0.5, seed=0)
    tensor([[False,  True, False],
            [False, False,  True]])
    """
    shared = {dim % len(shape) for dim in shared_dims}
    reduced = [1 if dim in shared else size for dim, size in enumerate(shape)]
    threshold = (p * 2**32).round().to(torch.int64) if isinstance(p, Tensor) else round(p * 2**32)
    return (random_words(math.prod(reduced), seed, device) >= threshold).reshape(reduced)


def is_multiplicative(p: Number, q: Number) -> Any:
    """Return whether `y = x * noise`, as a bool or a 0-d tensor: for `q = 2`, for `p = 0` (the identity) and `p = 1` (zeros)."""
    return (q == 2) | (p == 0) | (p == 1)


def forward(input: Tensor, seed: Tensor | int, settings: Settings) -> Tensor:
    """`y = x + s sign(x) |x/s|^(q/2) n` with `n = m / (1 - p) - 1`; if `is_multiplicative`, `y = x * (m / (1 - p))`.

    Args:
        input: `x`, of any shape, float16, bfloat16, float32 or float64. Half precision computes in float32.
        seed: see `random_words`.
        settings: `p`, `q`, `s` and the shared dimensions. `s` is clamped so that both it and its inverse are normal numbers of
            the dtype of the arithmetic.

    Returns:
        `y`, of the shape, dtype and memory layout of `input`.
    """
    x, p, q = _compute(input), settings.p, settings.q
    kept = keep_mask(input.shape, p, seed, settings.shared_dims, input.device)
    multiplicative = is_multiplicative(p, q)
    if multiplicative is True:
        return (x * _dropout_noise(kept, p, x.dtype)).to(input.dtype)
    s = in_range(settings.scale, x.dtype)
    y: Tensor = x + x.sign() * (s * (x.abs() / s).pow(q / 2)) * _noise(kept, p, x.dtype)
    if isinstance(multiplicative, Tensor):
        y = torch.where(multiplicative, x * _dropout_noise(kept, p, x.dtype), y)
    return y.to(input.dtype)


def backward(grad: Tensor, input: Tensor | None, seed: Tensor | int, settings: Settings) -> Tensor:
    """`dL/dx = dL/dy (1 + c (|x|/s + eps)^((q-2)/2) n)` with `c = 1` for the detached gradient and `q / 2` for the exact one.

    The Jacobian is diagonal, so this is the Jacobian-vector product too. It can be differentiated again: the detached factor
    is a constant, the exact one a function of `x`.

    Args:
        grad: `dL/dy`.
        input: `x`; may be None if `is_multiplicative`, and is not read then.
        seed: the seed of the forward pass.
        settings: the settings of the forward pass. `s` is a constant of the derivative.

    Returns:
        `dL/dx`, of the shape and dtype of `grad`.
    """
    g, p, q = _compute(grad), settings.p, settings.q
    kept = keep_mask(grad.shape, p, seed, settings.shared_dims, grad.device)
    multiplicative = is_multiplicative(p, q)
    if input is None or multiplicative is True:
        return (g * _dropout_noise(kept, p, g.dtype)).to(grad.dtype)
    x = _compute(input if settings.gradient == "exact" else input.detach())
    size = x.abs() / in_range(settings.scale, x.dtype) + settings.eps
    coefficient, largest = gradient_coefficient(settings), torch.finfo(g.dtype).max
    power = size.pow(gradient_exponent(q, coefficient, g.dtype))
    factor: Tensor = 1 + _clamp(coefficient, 0.0, largest) * power * _noise(kept, p, g.dtype)
    # An overflowing factor stays finite: 0 * inf would make a NaN of a zero gradient.
    factor = factor.clamp(-largest, largest)
    if isinstance(multiplicative, Tensor):
        factor = torch.where(multiplicative, _dropout_noise(kept, p, g.dtype), factor)
    return (g * factor).to(grad.dtype)


def factor_derivative(input: Tensor, seed: Tensor, settings: Settings) -> Tensor:
    """`d/dx (1 + (q/2) (|x|/s + eps)^((q-2)/2) n) = (q/2) ((q-2)/2) (|x|/s + eps)^((q-4)/2) sign(x)/s n`."""
    x, p, q = _compute(input), settings.p, settings.q
    s = in_range(settings.scale, x.dtype)
    noise = _noise(keep_mask(input.shape, p, seed, settings.shared_dims, input.device), p, x.dtype)
    slope = q / 2 * ((q - 2) / 2) * (x.abs() / s + settings.eps).pow((q - 4) / 2) * x.sign() / s * noise
    return torch.where(torch.as_tensor(is_multiplicative(p, q)), 0, slope).to(input.dtype)


def gradient_coefficient(settings: Settings) -> Number:
    """`c` of `backward`: 1 for the detached gradient, `q / 2` for the exact one."""
    return settings.q / 2 if settings.gradient == "exact" else 1.0


def gradient_exponent(q: Number, coefficient: Number, dtype: torch.dtype) -> Number:
    """`(q - 2) / 2`, but 0 if `coefficient` is 0 or subnormal in the arithmetic of `dtype`.

    Such a coefficient makes a product with any finite power 0 in effect; an infinite power would make it NaN or infinite.
    """
    counts = coefficient >= (_TINY64 if dtype == torch.float64 else _TINY32)
    if isinstance(counts, Tensor):
        return torch.where(counts, (q - 2) / 2, 0.0)
    return (q - 2) / 2 if counts else 0.0


def in_range(scale: Number, dtype: torch.dtype) -> Number:
    """`scale`, clamped so that both it and its inverse are normal numbers of `dtype`: neither makes NaN of finite numbers."""
    smallest = torch.finfo(dtype).smallest_normal
    return _clamp(scale.detach().to(dtype) if isinstance(scale, Tensor) else scale, smallest, 1 / smallest)


def _clamp(number: Number, low: float, high: float) -> Number:
    return number.clamp(low, high) if isinstance(number, Tensor) else min(max(number, low), high)


def _compute(tensor: Tensor) -> Tensor:
    """`tensor` in the dtype of the arithmetic: float64 for float64, float32 for all others."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _dropout_noise(kept: Tensor, p: Number, dtype: torch.dtype) -> Tensor:
    """`m / (1 - p)`, the quotient rounded once in `dtype`, as `torch.nn.functional.dropout` does on a CPU."""
    one = torch.ones((), dtype=dtype, device=kept.device)
    return torch.where(kept, one / ((1 - p).to(dtype) if isinstance(p, Tensor) else 1 - p), 0.0)


def _noise(kept: Tensor, p: Number, dtype: torch.dtype) -> Tensor:
    """`n = m / (1 - p) - 1`, exact for small `p`, and never 0: times a power that overflowed, 0 would give NaN."""
    down = torch.full((), -1.0, dtype=dtype, device=kept.device)
    up = _clamp(p / (1 - p), torch.finfo(dtype).tiny, torch.finfo(dtype).max)
    return torch.where(kept, up.to(dtype) if isinstance(up, Tensor) else torch.full_like(down, up), down)
