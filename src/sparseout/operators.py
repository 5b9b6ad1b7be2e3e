"""The op as operators of `torch.library`, for `torch.compile` and whatever else records operators instead of calling functions.

`sparseout::draw` draws a seed, `sparseout::noise` is the op and `sparseout::noise_backward` its gradient. `p`, `q` and `s` are
0-d tensors, so that nothing is compiled anew when they change; the input is therefore kept for every `q`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparseout import expression, kernels
from sparseout.checks import Gradient
from sparseout.expression import Expression
from sparseout.kernels import Backend


def draw(input: Tensor) -> Tensor:
    """A seed from the default generator of the device of `input`."""
    seed: Tensor = torch.ops.sparseout.draw(input)
    return seed


def noise(
    input: Tensor,
    p: float | Tensor,
    q: float | Tensor,
    seed: Tensor,
    scale: float | Tensor,
    gradient: Gradient,
    eps: float,
    dims: tuple[int, ...],
    backend: Backend | None,
) -> Tensor:
    """The op, recorded as one operator; on a GPU, where a compiler fuses it, as an expression."""
    p, q = _as_tensor(p), _as_tensor(q)
    scale = scale if isinstance(scale, Tensor) else _as_tensor(scale)
    if input.is_cuda and backend is None and torch.compiler.is_compiling():
        result: Tensor = Expression.apply(input, p, q, seed, scale, gradient, eps, dims)
    else:
        result = torch.ops.sparseout.noise(input, p, q, seed, scale, gradient, eps, dims, backend)
    return result


def _as_tensor(number: float | Tensor) -> Tensor:
    """A 0-d float64 tensor; `full` is what a compiler traces without compiling the number in."""
    if isinstance(number, Tensor):
        return number.to("cpu", torch.float64)
    return torch.full((), number, dtype=torch.float64, device="cpu")


_SETTINGS = "Tensor p, Tensor q, Tensor seed, Tensor scale, str gradient, float eps, int[] shared_dims, str? backend"
torch.library.define("sparseout::draw", "(Tensor input) -> Tensor", tags=(torch.Tag.nondeterministic_seeded,))
torch.library.define("sparseout::noise", f"(Tensor input, {_SETTINGS}) -> Tensor")
torch.library.define("sparseout::noise_backward", f"(Tensor grad, Tensor input, {_SETTINGS}) -> Tensor")


@torch.library.impl("sparseout::draw", "CompositeExplicitAutograd")
def _draw(input: Tensor) -> Tensor:
    return torch.randint(2**63 - 1, (1,), dtype=torch.int64, device=input.device)


@torch.library.impl("sparseout::noise", "CompositeExplicitAutograd")
def _noise(
    input: Tensor,
    p: Tensor,
    q: Tensor,
    seed: Tensor,
    scale: Tensor,
    gradient: str,
    eps: float,
    shared_dims: list[int],
    backend: Any,
) -> Tensor:
    chosen = kernels.choose(input, backend)
    return kernels.forward(input, float(p), float(q), seed, _number_on_cpu(scale), tuple(shared_dims), chosen)


@torch.library.impl("sparseout::noise_backward", "CompositeExplicitAutograd")
def _noise_backward(
    grad: Tensor,
    input: Tensor,
    p: Tensor,
    q: Tensor,
    seed: Tensor,
    scale: Tensor,
    gradient: str,
    eps: float,
    shared_dims: list[int],
    backend: Any,
) -> Tensor:
    chosen, s = kernels.choose(input, backend), _number_on_cpu(scale)
    return kernels.backward(grad, input, float(p), float(q), seed, s, gradient, eps, tuple(shared_dims), chosen)


def _number_on_cpu(scale: Tensor) -> float | Tensor:
    """The number where it can be read without waiting, else the tensor, which a kernel reads on its device."""
    return float(scale) if scale.is_cpu else scale


def _fake_draw(input: Tensor) -> Tensor:
    return input.new_empty((1,), dtype=torch.int64)


def _fake_noise(first: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(first)


def _keep_noise(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.gradient, ctx.eps, ctx.dims, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _differentiate_noise(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    settings = (ctx.gradient, ctx.eps, ctx.dims, ctx.backend)
    return torch.ops.sparseout.noise_backward(grad, *ctx.saved_tensors, *settings), *(None,) * 8


def _differentiate_backward(ctx: Any, double_grad: Tensor) -> tuple[Tensor | None, ...]:
    grad, input, p, q, seed, scale = ctx.saved_tensors
    settings = (p, q, seed, scale, ctx.gradient, ctx.eps, ctx.dims, ctx.backend)
    to_input = None
    if ctx.gradient == "exact":
        to_input = double_grad * grad * expression.factor_derivative(input, p, q, seed, scale, ctx.eps, ctx.dims)
    return torch.ops.sparseout.noise_backward(double_grad, input, *settings), to_input, *(None,) * 8


torch.library.register_fake("sparseout::draw", _fake_draw)
torch.library.register_fake("sparseout::noise", _fake_noise)
torch.library.register_fake("sparseout::noise_backward", _fake_noise)
torch.library.register_autograd("sparseout::noise", _differentiate_noise, setup_context=_keep_noise)
torch.library.register_autograd("sparseout::noise_backward", _differentiate_backward, setup_context=_keep_noise)
