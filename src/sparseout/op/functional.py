"""The op: checks its arguments, draws the seed, and calls the implementation that supports the input.

`sparseout` does all three. A layer with a running scale computes the scale after the draw, so it calls `check_call`, `draw_seed`
and `perturb` itself.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function_unary

from sparseout.checks import (
    GRADIENTS,
    Gradient,
    check_choice,
    check_eps,
    check_generator,
    check_input,
    check_p,
    check_q,
    check_scale,
    check_shared_dims,
)
from sparseout.op import backends, custom_ops, dtensor, reference
from sparseout.op.autograd import EagerSparseout, FunctorchSparseout
from sparseout.op.backends import Backend
from sparseout.op.settings import Settings
from sparseout.torch_internals import (
    direct_apply,
    is_dispatch_mode_active,
    is_fake,
    is_freed,
    is_tracing,
    is_transforming,
    is_view,
)


def sparseout(
    input: Tensor,
    p: float | Tensor = 0.5,
    q: float | Tensor = 2.0,
    training: bool = True,
    inplace: bool = False,
    *,
    scale: float | Tensor = 1.0,
    gradient: Gradient = "detached",
    eps: float | None = None,
    shared_dims: int | Sequence[int] = (),
    generator: torch.Generator | None = None,
    backend: Backend | None = None,
) -> Tensor:
    """`y = x + s sign(x) |x/s|^(q/2) n`, `n = m / (1 - p) - 1`, `m ~ Bernoulli(1 - p)`: noise whose strength follows `|x|^(q/2)`.

    `E[y] = x` and `Var[y] = p / (1 - p) s^2 |x/s|^q`. `q = 2` is Dropout; a smaller `q` makes a network's activations sparser,
    and a larger `q` makes them denser. Evaluation and `p = 0` are the identity, and `p = 1` gives zeros. `|x|^(q/2)` depends on
    the scale of `x`: at `|x| = s` all `q` agree, and below `s` a smaller `q` means stronger noise.

    A training call draws one 64-bit seed. The mask depends only on that seed and on the row-major index of each element, so it is
    the same on every device and in every dtype and memory layout, and the backward pass recomputes it. As with Dropout, ranks
    with equal seeds draw equal masks, and after one `manual_seed` a CPU and a GPU draw different ones.

    Args:
        input: `x`, of any shape, including 0-d and empty: float16, bfloat16, float32 or float64. Half precision computes in
            float32. A `DTensor` gives a `DTensor` with the same placements; a partial sum is first reduced to a replicated one.
        p: drop probability in [0, 1]. `p` and `q` may be 0-d tensors, whose values `torch.compile` reads without recompilation.
        q: norm of the penalty to which the noise amounts, at least 0.
        training: add noise if True, else return `input`.
        inplace: write the result into `input`. Unless `q` is 2, the backward pass then keeps a copy of the old values.
        scale: `s`, the unit in which `|x|` is measured: a positive finite number, or a 0-d tensor on the CPU or the device of
            `input`. Both gradients hold it constant, and `q = 2` does not depend on it. The kernels compute
            `s^(1 - q/2) |x|^(q/2)`, and both factors must lie in the range of the dtype of the arithmetic (float32 for half
            precision); `s` from 1e-6 to 1e6 is safe for `q` up to 4.
        gradient: `"detached"` holds the noise factor constant, `dL/dx = dL/dy (1 + (|x/s| + eps)^((q-2)/2) n)`. It controls
            sparsity monotonically and is the gradient of the authors' code. `"exact"` is the derivative of `y`,
            `dL/dx = dL/dy (1 + (q/2) (|x/s| + eps)^((q-2)/2) n)`. A network can escape its penalty by rescaling activations.
        eps: positive bound of the backward factor for `q < 2`. Default: 1e-6, and at least 1e-4 in float16.
        shared_dims: dimensions along which one draw is shared; negative numbers count from the end. `(2, 3)` drops whole channels
            of a batch of images, and `(1,)` uses one mask for all time steps of a batch-first sequence.
        generator: source of the seed, on the device of `input`. Default: the default generator of that device. Activation
            checkpointing rewinds only the default generators. `torch.compile` does not support a generator: such a call runs
            uncompiled, and raises with `fullgraph=True`.
        backend: `"cpu"`, `"gpu"` or `"reference"` forces an implementation; `sparseout.backends()` lists which are available.
            Default: the kernel of the input's device if it can be used, else the reference.

    Returns:
        `y`, of the shape, dtype and memory layout of `input`; `input` itself in evaluation or in place.

    Raises:
        TypeError: an argument has the wrong type, `input` is not a dense tensor of a dtype above, or `input` is a subclass of
            `Tensor` without the operations of Sparseout.
        ValueError: an argument is out of range, or the forced `backend` does not support `input`.
        RuntimeError: `torch.jit.trace`, or the ONNX exporter that uses it, records a training call.

    Source: Khan and Stavness (2019), *Sparseout: Controlling Sparsity in Deep Networks*, arXiv:1904.08050. The paper writes the
    perturbation without a sign, for rectified activations. With the sign, `q = 2` is Dropout for every activation.

    >>> x = torch.tensor([0.25, 1.0, -4.0, 0.0])
    >>> _ = torch.manual_seed(0)
    >>> sparseout(x, p=0.5, q=1.0)
    tensor([-0.2500,  2.0000, -2.0000,  0.0000])
    >>> sparseout(x, training=False) is x
    True
    """
    if has_torch_function_unary(input):
        result: Tensor = handle_torch_function(
            sparseout,
            (input,),
            input,
            p,
            q,
            training,
            inplace,
            scale=scale,
            gradient=gradient,
            eps=eps,
            shared_dims=shared_dims,
            generator=generator,
            backend=backend,
        )
        return result
    settings, kernel = check_call(input, p, q, scale, gradient, eps, shared_dims, generator, backend)
    if not training:
        return input
    return perturb(input, draw_seed(input, generator, kernel), settings, inplace, kernel, backend)


def check_call(
    input: Tensor,
    p: float | Tensor,
    q: float | Tensor,
    scale: float | Tensor,
    gradient: Gradient,
    eps: float | None,
    shared_dims: int | Sequence[int],
    generator: torch.Generator | None,
    backend: Backend | None = None,
) -> tuple[Settings, Backend | None]:
    """Check the arguments of `sparseout`.

    Returns:
        The settings, and the kernel that reads `input` directly. There is none, and this is None, if the reference computes the
        call, or if a compiler or a dispatch mode records it.
    """
    compiling = torch.compiler.is_compiling()
    check_input(input)
    p = p if compiling and isinstance(p, Tensor) else check_p(p)
    q = q if compiling and isinstance(q, Tensor) else check_q(q)
    scale = scale if compiling and isinstance(scale, Tensor) else check_scale(scale, input.device)
    if gradient != "detached":
        check_choice("gradient", gradient, GRADIENTS)
    eps = 1e-6 if eps is None else check_eps(eps)
    if input.dtype is torch.float16:
        eps = max(eps, 1e-4)
    dims = () if shared_dims == () else check_shared_dims(shared_dims, input.dim())
    if generator is not None:
        check_generator(generator, input.device)
        if compiling:
            raise ValueError("generator must be None under torch.compile: seed the default generator with torch.manual_seed")
    settings = Settings(p, q, scale, gradient, eps, dims)
    if compiling:
        return settings, None
    kernel = backends.choose(input, backend)
    return settings, None if kernel == "reference" or is_dispatch_mode_active() else kernel


def draw_seed(input: Tensor, generator: torch.Generator | None, kernel: Backend | None) -> Tensor | int:
    """Draw the seed of a training call: an integer for the CPU kernel, else an int64 tensor `(1,)` on the device of `input`."""
    if is_tracing():
        raise RuntimeError(
            "torch.jit.trace, and torch.onnx.export(dynamo=False) by it, would record one mask of Sparseout for all calls: "
            "use torch.export or torch.compile to train, or trace model.eval()"
        )
    if kernel == "cpu":
        return _draw_integer(generator)
    if kernel is None and (dtensor.is_dtensor(input) or _is_recorded(input)):
        return custom_ops.draw(dtensor.local_of(input), None if _is_fake(input) else generator)
    if is_freed(input):
        raise TypeError("input must have memory, got a tensor whose storage was freed or resized to 0")
    return custom_ops.random_seed(input, generator)


def perturb(
    input: Tensor,
    seed: Tensor | int,
    settings: Settings,
    inplace: bool,
    kernel: Backend | None,
    backend: Backend | None = None,
) -> Tensor:
    """Compute the op with the seed from `draw_seed` and the settings and kernel from `check_call`.

    `backend` is the one that the caller forces, for the operators that a graph records.
    """
    if kernel is None:
        assert isinstance(seed, Tensor)
        y = _perturb_indirectly(input.clone() if inplace else input, seed, settings, backend)
        return input.copy_(y) if inplace else y
    if not inplace and not (input.requires_grad and torch.is_grad_enabled()):
        return backends.forward(input, seed, settings, kernel)
    x = input.clone() if inplace and not reference.is_multiplicative(settings.p, settings.q) else input
    # copy_ raises for leaves and overlapping memory, which must not be written, and handles views.
    direct = inplace and kernel == "cpu" and input.is_contiguous() and not (input.is_leaf or is_view(input))
    y = _apply_eagerly(x, seed, settings, kernel, input if direct else None)
    return input.copy_(y) if inplace and not direct else y


_apply_eagerly = direct_apply(EagerSparseout)  # no kernel reads a tensor inside a transform


def _perturb_indirectly(input: Tensor, seed: Tensor, settings: Settings, backend: Backend | None) -> Tensor:
    """Compute the op if no kernel reads `input` directly: in recorded calls, in transforms, and for subclasses of tensors."""
    if dtensor.is_dtensor(input):
        return dtensor.forward(input, seed, settings, backend)
    if _is_fake(input):
        with input.fake_mode:  # type: ignore[attr-defined]
            return custom_ops.forward(input, seed, settings, backend)
    if _is_recorded(input):
        return custom_ops.forward(input, seed, settings, backend)
    scale = settings.scale
    if not isinstance(scale, Tensor):
        scale = torch.tensor(scale, dtype=torch.float64, device="cpu")
    numbers = settings._replace(p=float(settings.p), q=float(settings.q), scale=scale)
    try:
        y: Tensor = FunctorchSparseout.apply(input, seed, *numbers)
    except Exception as error:
        if type(input) in backends.PLAIN or isinstance(error, torch.OutOfMemoryError):
            raise
        kind, reason = type(input).__name__, str(error).partition("\n")[0]
        message = f"input is a {kind}, which does not support Sparseout: apply it to the plain tensor inside ({reason})"
        raise TypeError(message) from error
    return y


def _is_recorded(input: Tensor) -> bool:
    """Return whether a compiler or a dispatch mode records the call as operators.

    A compiler cannot trace the transforms of `torch.func` into an operator, so it runs such calls uncompiled.
    """
    if _is_fake(input):
        return True
    compiling, plain = torch.compiler.is_compiling(), type(input) in backends.PLAIN
    return not is_transforming() and (compiling or (plain and is_dispatch_mode_active()))


def _is_fake(input: Tensor) -> bool:
    return not torch.compiler.is_compiling() and is_fake(input)


class _Buffer(threading.local):
    """A number per thread, into which a seed is drawn without the cost of a new tensor."""

    def __init__(self) -> None:
        with torch.inference_mode(False):
            self.tensor = torch.empty(1, dtype=torch.int64, device="cpu")
        self.view = (ctypes.c_int64 * 1).from_address(self.tensor.data_ptr())


_buffer = _Buffer()


def _draw_integer(generator: torch.Generator | None) -> int:
    """Draw the number that `custom_ops.random_seed` would draw on the CPU."""
    _buffer.tensor.random_(0, 2**63 - 1, generator=generator)
    return _buffer.view[0]
