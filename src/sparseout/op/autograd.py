"""The op's derivatives: a light autograd function for plain eager calls, and one that the transforms of `torch.func` follow."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparseout.checks import Gradient
from sparseout.op import backends, reference
from sparseout.op.backends import Backend


class EagerSparseout(torch.autograd.Function):
    """Reverse mode for what a kernel reads as it is. The seed is kept, and the input where the factor depends on it."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        p: float,
        q: float,
        seed: Tensor | int,
        scale: float | Tensor,
        gradient: Gradient,
        eps: float,
        dims: tuple[int, ...],
        backend: Backend,
        output: Tensor | None,
    ) -> Tensor:
        ctx.settings = (p, q, seed, scale, gradient, eps, dims, backend)
        if output is not None:
            ctx.mark_dirty(output)
        if not reference.is_multiplicative(p, q):
            ctx.save_for_backward(input)
        return backends.forward(input, p, q, seed, scale, dims, backend, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (input,) = ctx.saved_tensors or (None,)
        result = backends.backward(grad, input, *ctx.settings)
        return result, None, None, None, None, None, None, None, None, None


class FunctorchSparseout(torch.autograd.Function):
    """The same by the reference, in forward mode and under `vmap` too, which may draw a seed a sample."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        input: Tensor, seed: Tensor, scale: Tensor, p: float, q: float, gradient: Gradient, eps: float, dims: tuple[int, ...]
    ) -> Tensor:
        return reference.forward(input, p, q, seed, dims, scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        input, seed, scale, *ctx.settings = inputs
        p, q = ctx.settings[:2]
        kept = (seed,) if reference.is_multiplicative(p, q) else (seed, scale, input)
        ctx.save_for_backward(*kept)
        ctx.save_for_forward(*kept)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return FunctorchSparseout.jvp(ctx, grad), None, None, None, None, None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        seed, *rest = ctx.saved_tensors
        scale, input = rest or (1.0, None)
        p, q, gradient, eps, dims = ctx.settings
        backends.check_kept(input)
        return reference.backward(tangent, input, p, q, seed, gradient, eps, dims, scale)
