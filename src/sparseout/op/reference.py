"""The mathematics of Sparseout and its random numbers in plain torch: what every kernel must equal.

`philox` is the generator, `random_words` numbers the elements, `keep_mask` draws the mask, and `forward` and `backward` are the
op. Each is a pure function of its arguments: the same seed gives the same mask on any device, in any dtype and memory layout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)


def philox(counter: Sequence[Tensor | int], key: Sequence[Tensor | int], rounds: int = 7) -> list[Tensor]:
    """Philox-4x32: `rounds` times `(c0, c1, c2, c3) <- (hi(M1 c2) ^ c1 ^ k0, lo(M1 c2), hi(M0 c0) ^ c3 ^ k1, lo(M0 c0))`.

    Args:
        counter: four words of the counter, int64 tensors (or integers) that hold values below 2^32 and broadcast together.
        key: two words of the key, likewise.
        rounds: 7 is crush-resistant by the authors' tests, 10 is their default.

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
        count: how many elements.
        seed: 64 bits, an integer or an int64 tensor of one element on `device`.
        device: where to compute.

    Returns:
        An int64 tensor `(count,)` of words below 2^32.
    """
    blocks = (count + 31) // 32
    index = torch.arange(8 * blocks, dtype=torch.int64, device=device)
    words = philox([index & _WORD, index >> 32, 0, 0], [seed & _WORD, seed >> 32 & _WORD])
    return torch.stack([word.reshape(blocks, 8) for word in torch.broadcast_tensors(*words)], dim=1).reshape(-1)[:count]


def keep_mask(
    shape: Sequence[int],
    p: float,
    seed: Tensor | int,
    shared_dims: Sequence[int] = (),
    device: torch.device | str | None = None,
) -> Tensor:
    """`m_i = word(i) >= round(p 2^32)`, so that an element is dropped (False) with probability `p`.

    Args:
        shape: shape of the input.
        p: drop probability in [0, 1].
        seed: see `random_words`.
        shared_dims: dimensions along which one draw is shared; the mask has size 1 there, and `i` counts that reduced shape.
        device: where to compute.

    Returns:
        A bool tensor of the reduced shape, which broadcasts with the input; `i` is the row-major index.

    >>> keep_mask((2, 3), 0.5, seed=0)
    tensor([[False,  True, False],
            [False, False,  True]])
    """
    shared = {dim % len(shape) for dim in shared_dims}
    reduced = [1 if dim in shared else size for dim, size in enumerate(shape)]
    return (random_words(math.prod(reduced), seed, device) >= round(p * 2**32)).reshape(reduced)


def is_multiplicative(p: float, q: float) -> bool:
    """Whether `y = x * noise`: for `q = 2`, and for `p` of 0 (the identity) and 1 (zeros) whatever `q` is."""
    return q == 2 or p in (0, 1)


def forward(
    input: Tensor, p: float, q: float, seed: Tensor | int, shared_dims: Sequence[int] = (), scale: float | Tensor = 1.0
) -> Tensor:
    """`y = x + s sign(x) |x/s|^(q/2) n` with `n = m / (1 - p) - 1`; where `is_multiplicative`, `y = x * (m / (1 - p))`.

    Args:
        input: `x`, of any shape, float16, bfloat16, float32 or float64. Half precision computes in float32.
        p: drop probability in [0, 1].
        q: norm, at least 0.
        seed: see `random_words`.
        shared_dims: see `keep_mask`.
        scale: `s`, positive: a number, or a 0-d tensor. It counts as the nearest number of which both it and its inverse are
            normal in the dtype of the arithmetic.

    Returns:
        `y`, of the shape, dtype and memory layout of `input`.
    """
    x = _compute(input)
    kept = keep_mask(input.shape, p, seed, shared_dims, input.device)
    if is_multiplicative(p, q):
        return (x * _product_noise(kept, p, x.dtype)).to(input.dtype)
    s = in_range(scale, x.dtype)
    return (x + x.sign() * (s * (x.abs() / s).pow(q / 2)) * _noise(kept, p, x.dtype)).to(input.dtype)


def backward(
    grad: Tensor,
    input: Tensor | None,
    p: float,
    q: float,
    seed: Tensor | int,
    gradient: str,
    eps: float,
    shared_dims: Sequence[int] = (),
    scale: float | Tensor = 1.0,
) -> Tensor:
    """`dL/dx = dL/dy (1 + c (|x|/s + eps)^((q-2)/2) n)` with `c = 1` for the detached gradient and `q / 2` for the exact one.

    The Jacobian is diagonal, so this is the Jacobian-vector product too. It can be differentiated again: the detached factor
    is a constant, the exact one a function of `x`.

    Args:
        grad: `dL/dy`.
        input: `x`; not read, and may be None, where `is_multiplicative`.
        gradient: `"detached"` or `"exact"`.
        eps: see `sparseout.sparseout`; must be positive.
        scale: `s`, a constant; see `forward`.

    Returns:
        `dL/dx`, of the shape and dtype of `grad`.
    """
    g = _compute(grad)
    kept = keep_mask(grad.shape, p, seed, shared_dims, grad.device)
    if input is None or is_multiplicative(p, q):
        return (g * _product_noise(kept, p, g.dtype)).to(grad.dtype)
    x = _compute(input if gradient == "exact" else input.detach())
    coefficient = q / 2 if gradient == "exact" else 1.0
    size = x.abs() / in_range(scale, x.dtype) + eps
    limits = torch.finfo(g.dtype)
    # A coefficient that rounds to 0 makes any power 0, an infinite one too: 0 * inf would be NaN.
    exponent = (q - 2) / 2 if coefficient >= limits.tiny else 0.0
    factor = 1 + min(coefficient, limits.max) * size.pow(exponent) * _noise(kept, p, g.dtype)
    # An overflowing factor stays finite: 0 * inf would make a NaN of a zero gradient.
    return (g * factor.clamp(-limits.max, limits.max)).to(grad.dtype)


def in_range(scale: float | Tensor, dtype: torch.dtype) -> float | Tensor:
    """`scale`, as far as `dtype` allows: both it and its inverse are normal, so that neither makes NaN of finite numbers."""
    smallest = torch.finfo(dtype).smallest_normal
    if isinstance(scale, Tensor):
        return scale.detach().to(dtype).clamp(smallest, 1 / smallest)
    return min(max(scale, smallest), 1 / smallest)


def _compute(tensor: Tensor) -> Tensor:
    """`tensor` in the dtype that the arithmetic uses: float64 stays, anything less is float32."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _product_noise(kept: Tensor, p: float, dtype: torch.dtype) -> Tensor:
    """`m / (1 - p)`, the quotient rounded once in `dtype`, as `torch.nn.functional.dropout` does on a CPU."""
    return kept.to(dtype) / (1 - p) if p < 1 else kept.to(dtype)


def _noise(kept: Tensor, p: float, dtype: torch.dtype) -> Tensor:
    """`n = m / (1 - p) - 1`, exact for small `p`, and never 0: a power that overflowed would give 0 * inf = NaN."""
    up = torch.full((), max(p / (1 - p), torch.finfo(dtype).tiny), dtype=dtype, device=kept.device)
    return torch.where(kept, up, -torch.ones_like(up))
