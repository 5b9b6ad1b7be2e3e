"""The product as an operator of `torch.library`, for `torch.compile` and `torch.export`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._C import _functorch, _get_tracing_state, _len_torch_dispatch_stack
from torch.autograd import forward_ad

from sparseout.inference import kernel

torch.library.define(
    "sparseout::skip_zeros", "(Tensor input, Tensor weight, Tensor? bias, float cutoff, int? max_batch) -> Tensor"
)


def product(input: Tensor, weight: Tensor, bias: Tensor | None, cutoff: float, max_batch: int | None) -> Tensor:
    """`kernel.product`, recorded as one operator if a compiler or autograd needs it, else called directly."""
    if not torch.compiler.is_compiling() and (_is_transformed() or _get_tracing_state() is not None):
        # Transforms know no rule for the operator, and neither does the ONNX exporter that uses torch.jit.trace.
        return kernel.dense(input, weight, bias, cutoff)
    needs_grad = torch.is_grad_enabled() and (input.requires_grad or weight.requires_grad)
    if torch.compiler.is_compiling() or needs_grad or _len_torch_dispatch_stack():
        result: Tensor = torch.ops.sparseout.skip_zeros(input, weight, bias, cutoff, max_batch)
        return result
    return kernel.product(input, weight, bias, cutoff, max_batch)


def _is_transformed() -> bool:
    return _functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0


@torch.library.impl("sparseout::skip_zeros", "CompositeExplicitAutograd")
def _product(input: Tensor, weight: Tensor, bias: Tensor | None, cutoff: float, max_batch: int | None) -> Tensor:
    return kernel.product(input, weight, bias, cutoff, max_batch)


def _fake(input: Tensor, weight: Tensor, bias: Tensor | None, cutoff: float, max_batch: int | None) -> Tensor:
    return input.new_empty((*input.shape[:-1], weight.shape[0]))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, weight, bias, ctx.cutoff, _ = inputs
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.save_for_backward(input, weight)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    input, weight = ctx.saved_tensors
    active = ~(input.abs() <= ctx.cutoff)
    rows = grad.reshape(-1, grad.shape[-1]).to(weight.dtype)
    to_input = to_weight = to_bias = None
    if ctx.needs_input_grad[0]:
        # A cutoff of 0 changes no value, so the gradient passes through zeros as in a dense layer.
        to_input = (grad.to(weight.dtype) @ weight).to(input.dtype)
        to_input = to_input * active if ctx.cutoff else to_input
    if ctx.needs_input_grad[1]:
        to_weight = rows.t() @ (input * active).reshape(-1, weight.shape[1]).to(weight.dtype)
    if ctx.needs_input_grad[2]:
        to_bias = rows.sum(0).to(ctx.bias_dtype)
    return to_input, to_weight, to_bias, None, None


torch.library.register_fake("sparseout::skip_zeros", _fake)
torch.library.register_autograd("sparseout::skip_zeros", _differentiate, setup_context=_keep)
