"""The op as one pointwise expression, which a compiler fuses with its neighbours: what `torch.compile` sees on a GPU."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sparseout.op.reference import in_range, philox


class Expression(torch.autograd.Function):
    """`reference.forward` and `reference.backward` with `p`, `q` and `s` as 0-d tensors, so that no value is compiled in."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        p: Tensor,
        q: Tensor,
        seed: Tensor,
        scale: Tensor,
        gradient: str,
        eps: float,
        dims: tuple[int, ...],
    ) -> Tensor:
        ctx.save_for_backward(input, p, q, seed, scale)
        ctx.settings = (gradient, eps, dims)
        x, product_noise, noise, is_multiplicative = _parts(input, p, q, seed, dims)
        s = in_range(scale, x.dtype)
        perturbed = x + x.sign() * (s * (x.abs() / s).pow(q / 2)) * noise
        return torch.where(is_multiplicative, x * product_noise, perturbed).to(input.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        input, p, q, seed, scale = ctx.saved_tensors
        gradient, eps, dims = ctx.settings
        x, product_noise, noise, is_multiplicative = _parts(input, p, q, seed, dims)
        coefficient = q / 2 if gradient == "exact" else torch.ones_like(q)
        limits = torch.finfo(x.dtype)
        power = (x.abs() / in_range(scale, x.dtype) + eps).pow((q - 2) / 2)
        scaled = torch.where(coefficient < limits.tiny, 0, coefficient.clamp_max(limits.max) * power)
        factor = (1 + scaled * noise).clamp(-limits.max, limits.max)
        result = grad.to(x.dtype) * torch.where(is_multiplicative, product_noise, factor)
        return result.to(grad.dtype), None, None, None, None, None, None, None


def factor_derivative(
    input: Tensor, p: Tensor, q: Tensor, seed: Tensor, scale: Tensor, eps: float, dims: Sequence[int]
) -> Tensor:
    """`d/dx (1 + (q/2) (|x|/s + eps)^((q-2)/2) n) = (q/2) ((q-2)/2) (|x|/s + eps)^((q-4)/2) sign(x)/s n`."""
    x, _, noise, is_multiplicative = _parts(input, p, q, seed, dims)
    s = in_range(scale, x.dtype)
    slope = q / 2 * ((q - 2) / 2) * (x.abs() / s + eps).pow((q - 4) / 2) * x.sign() / s * noise
    return torch.where(is_multiplicative, 0, slope).to(input.dtype)


def _parts(input: Tensor, p: Tensor, q: Tensor, seed: Tensor, dims: Sequence[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`x`, `m / (1 - p)`, `n`, and whether the first is all that counts, as in `reference`."""
    x = input if input.dtype == torch.float64 else input.float()
    reduced = [1 if dim in dims else size for dim, size in enumerate(input.shape)]
    index = torch.arange(math.prod(reduced), device=input.device).reshape(reduced)
    counter = index // 32 * 8 + index % 8
    words = philox([counter & 0xFFFFFFFF, counter >> 32, 0, 0], [seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF])
    column = index % 32 // 8
    word = torch.where(column < 2, torch.where(column == 0, words[0], words[1]), torch.where(column == 2, words[2], words[3]))
    kept = word >= (p * 2**32).round().to(torch.int64)
    zero, one = x.new_zeros(()), x.new_ones(())
    product_noise = torch.where(kept, one / (1 - p).to(x.dtype), zero)
    noise = torch.where(kept, (p / (1 - p)).to(x.dtype).clamp_min(torch.finfo(x.dtype).tiny), -one)
    return x, product_noise, noise, (q == 2) | (p == 0) | (p == 1)
