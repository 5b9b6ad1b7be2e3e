"""The op as operators of `torch.library`, for `torch.compile` and whatever else records operators instead of calling functions.

`sparseout::draw` draws a seed, `sparseout::forward` is the op and `sparseout::backward` its gradient. `p`, `q` and `s` are
0-d tensors, so that nothing is compiled anew when they change; the input is therefore kept for every `q`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sparseout.checks import (
    GRADIENTS,
    Gradient,
    check_choice,
    check_eps,
    check_input,
    check_p,
    check_q,
    check_scale,
    check_seed,
    check_shared_dims,
    check_twin,
)
from sparseout.op import backends, expression
from sparseout.op.backends import Backend
from sparseout.op.expression import Expression


def draw(input: Tensor, generator: torch.Generator | None) -> Tensor:
    """A seed on the device of `input`, recorded as one operator; a generator of one's own cannot be recorded."""
    seed: Tensor = torch.ops.sparseout.draw(input) if generator is None else random_seed(input, generator)
    return seed


def random_seed(input: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """A seed from `generator`, or from the default generator of the device of `input`."""
    return torch.randint(2**63 - 1, (1,), dtype=torch.int64, device=input.device, generator=generator)


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
        result = torch.ops.sparseout.forward(input, p, q, seed, scale, gradient, eps, dims, backend)
    return result


def _as_tensor(number: float | Tensor) -> Tensor:
    """A 0-d float64 tensor; `full` is what a compiler traces without compiling the number in."""
    if isinstance(number, Tensor):
        return number.to("cpu", torch.float64)
    return torch.full((), number, dtype=torch.float64, device="cpu")


_SETTINGS = "Tensor p, Tensor q, Tensor seed, Tensor scale, str gradient, float eps, int[] shared_dims, str? backend"
torch.library.define("sparseout::draw", "(Tensor input) -> Tensor", tags=(torch.Tag.nondeterministic_seeded,))
torch.library.define("sparseout::forward", f"(Tensor input, {_SETTINGS}) -> Tensor")
torch.library.define("sparseout::backward", f"(Tensor grad, Tensor input, {_SETTINGS}) -> Tensor")


@torch.library.impl("sparseout::draw", "CompositeExplicitAutograd")
def _draw(input: Tensor) -> Tensor:
    return random_seed(input)


@torch.library.impl("sparseout::forward", "CompositeExplicitAutograd")
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
    dims = _check(input, gradient, eps, shared_dims)
    numbers = _check_numbers(input, p, q, seed, scale)
    return backends.forward(input, *numbers, dims, backends.choose(input, backend))


@torch.library.impl("sparseout::backward", "CompositeExplicitAutograd")
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
    dims = _check(input, gradient, eps, shared_dims)
    numbers = _check_numbers(input, p, q, seed, scale)
    check_twin("grad", grad, input)
    return backends.backward(grad, input, *numbers, gradient, eps, dims, backends.choose(input, backend))


def _check(input: Tensor, gradient: str, eps: float, shared_dims: Sequence[int]) -> tuple[int, ...]:
    """The dimensions, counted from 0, or raise where a graph can know that an argument is wrong."""
    check_input(input)
    check_choice("gradient", gradient, GRADIENTS)
    check_eps(eps)
    return check_shared_dims(shared_dims, input.dim())


def _check_numbers(
    input: Tensor, p: Tensor, q: Tensor, seed: Tensor, scale: Tensor
) -> tuple[float, float, Tensor, float | Tensor]:
    """The numbers that a graph computes with; the scale as a tensor where reading it would wait for its device."""
    check_seed(seed, input.device)
    return check_p(p), check_q(q), seed, check_scale(scale, input.device)


def _fake_draw(input: Tensor) -> Tensor:
    return input.new_empty((1,), dtype=torch.int64)


def _fake_noise(
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
    _check(input, gradient, eps, shared_dims)
    return torch.empty_like(input)


def _fake_noise_backward(grad: Tensor, *arguments: Any) -> Tensor:
    _fake_noise(*arguments)
    check_twin("grad", grad, arguments[0])
    return torch.empty_like(grad)


def _keep_noise(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.gradient, ctx.eps, shared_dims, ctx.backend = inputs
    ctx.dims = check_shared_dims(shared_dims, output.dim())
    ctx.save_for_backward(*tensors)


def _differentiate_noise(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    settings = (ctx.gradient, ctx.eps, ctx.dims, ctx.backend)
    return torch.ops.sparseout.backward(grad, *ctx.saved_tensors, *settings), *(None,) * 8


def _differentiate_backward(ctx: Any, double_grad: Tensor) -> tuple[Tensor | None, ...]:
    grad, input, p, q, seed, scale = ctx.saved_tensors
    settings = (p, q, seed, scale, ctx.gradient, ctx.eps, ctx.dims, ctx.backend)
    to_input = None
    if ctx.gradient == "exact":
        to_input = double_grad * grad * expression.factor_derivative(input, p, q, seed, scale, ctx.eps, ctx.dims)
    return torch.ops.sparseout.backward(double_grad, input, *settings), to_input, *(None,) * 8


torch.library.register_fake("sparseout::draw", _fake_draw)
torch.library.register_fake("sparseout::forward", _fake_noise)
torch.library.register_fake("sparseout::backward", _fake_noise_backward)
torch.library.register_autograd("sparseout::forward", _differentiate_noise, setup_context=_keep_noise)
torch.library.register_autograd("sparseout::backward", _differentiate_backward, setup_context=_keep_noise)
