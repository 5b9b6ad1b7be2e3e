"""The op: checks its arguments, draws the seed, and gives the reference its derivatives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from sparseout import kernels, reference
from sparseout.kernels import Backend

Gradient = Literal["detached", "exact"]

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def sparseout(
    input: Tensor,
    p: float = 0.5,
    q: float = 2.0,
    training: bool = True,
    inplace: bool = False,
    *,
    gradient: Gradient = "detached",
    eps: float | None = None,
    shared_dims: int | Sequence[int] = (),
    generator: torch.Generator | None = None,
    backend: Backend | None = None,
) -> Tensor:
    """`y = x + sign(x) |x|^(q/2) n`, `n = m / (1 - p) - 1`, `m ~ Bernoulli(1 - p)`: noise whose strength follows `|x|^(q/2)`.

    `E[y] = x` and `Var[y] = p / (1 - p) |x|^q`. `q = 2` is Dropout, a smaller `q` makes a network's activations sparser and a
    larger one denser. Evaluation and `p = 0` are the identity, `p = 1` gives zeros. `|x|^(q/2)` depends on the scale of `x`: at
    `|x| = 1` all `q` agree, and below 1 a smaller `q` means stronger noise.

    A training call draws one 64-bit seed; the mask is a function of that seed and of each element's row-major index alone, so
    that it is the same on any device, in any dtype and memory layout, and is recomputed in the backward pass instead of kept.
    As for Dropout, ranks that are seeded alike draw alike, and after one `manual_seed` a CPU and a GPU draw different seeds.

    Args:
        input: `x`, of any shape (0-d and empty too): float16, bfloat16, float32 or float64. Half precision computes in float32.
        p: drop probability in [0, 1].
        q: norm of the penalty that the noise amounts to, at least 0.
        training: draw noise; False returns `input`.
        inplace: write the result into `input`. For `q` other than 2 the backward pass then keeps a copy of what was there.
        gradient: `"detached"` holds the noise's factor constant, `dL/dx = dL/dy (1 + (|x| + eps)^((q-2)/2) n)`: it controls
            sparsity monotonically, and is what the paper's authors published. `"exact"` is the derivative of `y`,
            `dL/dx = dL/dy (1 + (q/2) (|x| + eps)^((q-2)/2) n)`: a network can escape it by scaling its activations.
        eps: positive bound of the backward factor for `q < 2`. Default 1e-6; in float16 never less than 1e-4.
        shared_dims: dimensions along which one draw is shared; negative ones count from the end. `(2, 3)` drops whole channels
            of an image batch, `(1,)` uses one mask for all time steps of a batch-first sequence.
        generator: source of the seed, on the device of `input`. Default: that device's default generator. Activation
            checkpointing rewinds the default generators, and not this one.
        backend: `"cpu"`, the compiled kernel, which takes contiguous tensors on the CPU without `shared_dims`; or `"reference"`,
            plain torch. Default: the kernel where it can be used, the reference elsewhere.

    Returns:
        `y`, of the shape, dtype and memory layout of `input`; `input` itself in evaluation or in place.

    Raises:
        TypeError: an argument is of the wrong type, or `input` is not a dense tensor of a dtype above.
        ValueError: an argument is out of its range, or the `backend` asked for cannot take `input`.

    Source: Khan and Stavness (2019), *Sparseout: Controlling Sparsity in Deep Networks*, arXiv:1904.08050. The sign makes the
    paper's perturbation, written there for rectified activations, equal Dropout at `q = 2` for every activation.

    >>> x = torch.tensor([0.25, 1.0, -4.0, 0.0])
    >>> _ = torch.manual_seed(0)
    >>> sparseout(x, p=0.5, q=1.0)
    tensor([-0.2500,  2.0000, -2.0000,  0.0000])
    >>> sparseout(x, training=False) is x
    True
    """
    check_input(input)
    p, q = check_p(p), check_q(q)
    gradient = check_choice("gradient", gradient, get_args(Gradient))
    eps = check_eps(eps)
    dims = _check_shared_dims(shared_dims, input.dim())
    _check_generator(generator, input.device)
    if backend is not None:
        check_choice("backend", backend, get_args(Backend))
    backend = kernels.choose(input, dims, backend)
    if not training:
        return input
    if input.dtype == torch.float16:
        eps = max(eps, 1e-4)
    seed = torch.randint(2**63 - 1, (1,), dtype=torch.int64, device=input.device, generator=generator)
    x = input.clone() if inplace and not reference.is_product(p, q) else input
    y: Tensor = _Sparseout.apply(x, seed, p, q, gradient, eps, dims, backend)
    return input.copy_(y) if inplace else y


class _Sparseout(torch.autograd.Function):
    """The op with its derivatives. The seed is kept for backward, and the input where the factor depends on it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        input: Tensor,
        seed: Tensor,
        p: float,
        q: float,
        gradient: Gradient,
        eps: float,
        dims: tuple[int, ...],
        backend: Backend,
    ) -> Tensor:
        return kernels.forward(input, p, q, seed, dims, backend)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        input, seed, *ctx.settings = inputs
        p, q = ctx.settings[:2]
        kept = (seed,) if reference.is_product(p, q) else (seed, input)
        ctx.save_for_backward(*kept)
        ctx.save_for_forward(*kept)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        seed, *input = ctx.saved_tensors
        p, q, gradient, eps, dims, backend = ctx.settings
        result = kernels.backward(grad, input[0] if input else None, p, q, seed, gradient, eps, dims, backend)
        return result, *(None,) * (len(ctx.settings) + 1)

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        seed, *input = ctx.saved_tensors
        p, q, gradient, eps, dims, _ = ctx.settings
        return reference.backward(tangent, input[0] if input else None, p, q, seed, gradient, eps, dims)


def check_input(input: Tensor) -> None:
    """Raise unless `input` is a dense tensor of a supported dtype."""
    if not isinstance(input, Tensor):
        raise TypeError(f"input must be a torch.Tensor, got {type(input).__name__}")
    if input.layout != torch.strided or input.is_nested:
        kind = "nested" if input.is_nested else str(input.layout).removeprefix("torch.")
        raise TypeError(f"input must be a dense tensor, got a {kind} one: apply sparseout to its values, or densify it")
    if input.dtype not in _DTYPES:
        raise TypeError(
            f"input must be float16, bfloat16, float32 or float64, got {str(input.dtype).removeprefix('torch.')}: "
            "convert it first, for example with input.float()"
        )


def check_p(p: float) -> float:
    """`p` as a float, or raise unless it is a real number in [0, 1]."""
    return check_number("p", p, 0.0, 1.0, "a drop probability in [0, 1]")


def check_q(q: float) -> float:
    """`q` as a float, or raise unless it is a finite real number of at least 0."""
    return check_number("q", q, 0.0, math.nextafter(math.inf, 0), "a finite norm of at least 0")


def check_eps(eps: float | None) -> float:
    """`eps` as a float, 1e-6 for None, or raise unless it is positive and finite."""
    if eps is None:
        return 1e-6
    return check_number("eps", eps, math.ulp(0.0), math.nextafter(math.inf, 0), "None or a positive finite number")


def check_choice(name: str, value: Any, allowed: Sequence[Any]) -> Any:
    """`value`, or raise unless it is one of `allowed`."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
    return value


def check_number(name: str, value: float, low: float, high: float, allowed: str) -> float:
    """`value` as a float, or raise unless it is a real number in [`low`, `high`]; `allowed` says so in words."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be {allowed}, got {value!r} of type {type(value).__name__}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be {allowed}, got {value!r}")
    return float(value)


def _check_shared_dims(shared_dims: int | Sequence[int], ndim: int) -> tuple[int, ...]:
    dims = tuple(shared_dims) if isinstance(shared_dims, Sequence) else (shared_dims,)
    for dim in dims:
        if isinstance(dim, bool) or not isinstance(dim, int):
            raise TypeError(f"shared_dims must be integers, got {dim!r} of type {type(dim).__name__}")
        if not -ndim <= dim < ndim:
            allowed = f"lie in [{-ndim}, {ndim - 1}]" if ndim else "be empty"
            raise ValueError(f"shared_dims must {allowed} for an input of {ndim} dimensions, got {dim}")
    dims = tuple(dim % ndim for dim in dims)
    if len(set(dims)) < len(dims):
        raise ValueError(f"shared_dims must name each dimension once, got {shared_dims!r} for {ndim} dimensions")
    return dims


def _check_generator(generator: torch.Generator | None, device: torch.device) -> None:
    if generator is None:
        return
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be None or a torch.Generator, got {type(generator).__name__}")
    if generator.device.type != device.type:
        raise ValueError(f"generator must be on the device of input, {device}, got one on {generator.device}")
