"""The op as operators of `torch.library`, for `torch.compile` and other tools that record operators.

`sparseout::draw` draws a seed, `sparseout::forward` is the op and `sparseout::backward` its gradient. `p`, `q` and `s` are 0-d
tensors, so a change of their values recompiles nothing; the operators therefore keep the input for every `q`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparseout.checks import (
    GRADIENTS,
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
from sparseout.op import backends, reference
from sparseout.op.autograd import FusedSparseout
from sparseout.op.backends import Backend
from sparseout.op.settings import Settings, with_numbers


def draw(input: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return a seed on the device of `input`, drawn by one operator. A call with a `generator` cannot be recorded as one."""
    seed: Tensor = torch.ops.sparseout.draw(input) if generator is None else random_seed(input, generator)
    return seed


def random_seed(input: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Return a seed from `generator`, or from the default generator of the device of `input`."""
    return torch.randint(2**63 - 1, (1,), dtype=torch.int64, device=input.device, generator=generator)


def forward(input: Tensor, seed: Tensor, settings: Settings, backend: Backend | None) -> Tensor:
    """Compute the op in one operator, or, when a compiler for a GPU records it, in operations that the compiler fuses."""
    p, q = as_tensor(settings.p), as_tensor(settings.q)
    scale = settings.scale if isinstance(settings.scale, Tensor) else as_tensor(settings.scale)
    tensors = with_numbers(settings, p, q, scale)
    if input.is_cuda and backend is None and torch.compiler.is_compiling():
        result: Tensor = FusedSparseout.apply(input, seed, *tensors)
    else:
        result = torch.ops.sparseout.forward(input, seed, *tensors, backend)
    return result


def as_tensor(number: float | Tensor) -> Tensor:
    """Return a 0-d float64 tensor on the CPU. A compiler traces `full` without compiling the number in."""
    if isinstance(number, Tensor):
        return number.to("cpu", torch.float64)
    return torch.full((), number, dtype=torch.float64, device="cpu")


_SETTINGS = "Tensor p, Tensor q, Tensor scale, str gradient, float eps, int[] shared_dims"  # the fields of Settings
_CALL = f"Tensor input, Tensor seed, {_SETTINGS}, str? backend"
torch.library.define("sparseout::draw", "(Tensor input) -> Tensor", tags=(torch.Tag.nondeterministic_seeded,))
torch.library.define("sparseout::forward", f"({_CALL}) -> Tensor")
torch.library.define("sparseout::backward", f"(Tensor grad, {_CALL}) -> Tensor")


@torch.library.impl("sparseout::draw", "CompositeExplicitAutograd")
def _draw(input: Tensor) -> Tensor:
    return random_seed(input)


@torch.library.impl("sparseout::forward", "CompositeExplicitAutograd")
def _forward(input: Tensor, seed: Tensor, *settings: Any) -> Tensor:
    checked, backend = _check_values(input, seed, *settings)
    return backends.forward(input, seed, checked, backends.choose(input, backend))


@torch.library.impl("sparseout::backward", "CompositeExplicitAutograd")
def _backward(grad: Tensor, input: Tensor, seed: Tensor, *settings: Any) -> Tensor:
    checked, backend = _check_values(input, seed, *settings)
    check_twin("grad", grad, input)
    return backends.backward(grad, input, seed, checked, backends.choose(input, backend))


def _check(input: Tensor, *settings: Any) -> tuple[Settings, Backend | None]:
    """Return the settings with dimensions counted from 0, and the backend; raise if an argument other than a value is wrong."""
    *fields, backend = settings
    unchecked = Settings(*fields)
    check_input(input)
    check_choice("gradient", unchecked.gradient, GRADIENTS)
    check_eps(unchecked.eps)
    return unchecked._replace(shared_dims=check_shared_dims(unchecked.shared_dims, input.dim())), backend


def _check_values(input: Tensor, seed: Tensor, *settings: Any) -> tuple[Settings, Backend | None]:
    """Return `_check` with numbers for `p`, `q` and the scale. A scale on a GPU remains a tensor, as reading it would wait."""
    tensors, backend = _check(input, *settings)
    check_seed(seed, input.device)
    p, q, scale = check_p(tensors.p), check_q(tensors.q), check_scale(tensors.scale, input.device)
    return tensors._replace(p=p, q=q, scale=scale), backend


def _fake_draw(input: Tensor) -> Tensor:
    return input.new_empty((1,), dtype=torch.int64)


def _fake_forward(input: Tensor, seed: Tensor, *settings: Any) -> Tensor:
    _check(input, *settings)
    return torch.empty_like(input)


def _fake_backward(grad: Tensor, input: Tensor, seed: Tensor, *settings: Any) -> Tensor:
    _check(input, *settings)
    check_twin("grad", grad, input)
    return torch.empty_like(grad)


def _keep_forward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, seed, p, q, scale, *ctx.others = inputs
    ctx.save_for_backward(input, seed, p, q, scale)


def _keep_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    grad, input, seed, p, q, scale, *ctx.others = inputs
    ctx.save_for_backward(grad, input, seed, p, q, scale)


def _differentiate_forward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return torch.ops.sparseout.backward(grad, *ctx.saved_tensors, *ctx.others), *(None,) * 8


def _differentiate_backward(ctx: Any, double_grad: Tensor) -> tuple[Tensor | None, ...]:
    grad, input, seed, p, q, scale = ctx.saved_tensors
    settings, _ = _check(input, p, q, scale, *ctx.others)
    to_input = None
    if settings.gradient == "exact":
        to_input = double_grad * grad * reference.factor_derivative(input, seed, settings)
    to_grad = torch.ops.sparseout.backward(double_grad, input, seed, p, q, scale, *ctx.others)
    return to_grad, to_input, *(None,) * 8


torch.library.register_fake("sparseout::draw", _fake_draw)
torch.library.register_fake("sparseout::forward", _fake_forward)
torch.library.register_fake("sparseout::backward", _fake_backward)
torch.library.register_autograd("sparseout::forward", _differentiate_forward, setup_context=_keep_forward)
torch.library.register_autograd("sparseout::backward", _differentiate_backward, setup_context=_keep_backward)
