"""The op's derivatives: one autograd function each for eager calls, the transforms of `torch.func` and a compiler on a GPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparseout.op import backends, reference
from sparseout.op.backends import Backend
from sparseout.op.settings import FREED, Settings
from sparseout.torch_internals import is_freed


class EagerSparseout(torch.autograd.Function):
    """The op with reverse-mode derivatives, for tensors that a kernel reads.

    It keeps the seed for the backward pass, and the input if the noise factor depends on it.
    """

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, seed: Tensor | int, settings: Settings, backend: Backend, output: Tensor | None
    ) -> Tensor:
        ctx.call = seed, settings, backend
        if output is not None:
            ctx.mark_dirty(output)
        if not reference.is_multiplicative(settings.p, settings.q):
            ctx.save_for_backward(input)
        return backends.forward(input, seed, settings, backend, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (input,) = ctx.saved_tensors or (None,)
        return backends.backward(grad, input, *ctx.call), None, None, None, None


class FunctorchSparseout(torch.autograd.Function):
    """The reference with reverse-mode and forward-mode derivatives and a `vmap` rule, in which each sample may have its seed.

    The settings are separate arguments, the scale a tensor, because `torch.func` wraps tensors among the arguments only.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(input: Tensor, seed: Tensor, *settings: Any) -> Tensor:
        return reference.forward(input, seed, Settings(*settings))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        input, seed, *settings = inputs
        full = Settings(*settings)
        kept = (seed,) if reference.is_multiplicative(full.p, full.q) else (seed, full.scale, input)
        ctx.settings = full._replace(scale=1.0)
        ctx.save_for_backward(*kept)
        ctx.save_for_forward(*kept)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return FunctorchSparseout.jvp(ctx, grad), None, *(None,) * len(Settings._fields)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        seed, *rest = ctx.saved_tensors
        scale, input = rest or (1.0, None)
        if input is not None and is_freed(input):
            raise RuntimeError(FREED)
        return reference.backward(tangent, input, seed, ctx.settings._replace(scale=scale))


class FusedSparseout(torch.autograd.Function):
    """The reference as a compiler on a GPU records it, operation by operation, to fuse it with its neighbours.

    `p`, `q` and the scale are 0-d tensors, so no value is compiled in. They are separate arguments, as in `FunctorchSparseout`.
    """

    @staticmethod
    def forward(ctx: Any, input: Tensor, seed: Tensor, *settings: Any) -> Tensor:
        p, q, scale, *ctx.others = settings
        ctx.save_for_backward(input, seed, p, q, scale)
        return reference.forward(input, seed, Settings(*settings))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        input, seed, p, q, scale = ctx.saved_tensors
        result = reference.backward(grad, input, seed, Settings(p, q, scale, *ctx.others))
        return result, None, *(None,) * len(Settings._fields)
