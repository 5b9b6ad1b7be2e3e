"""The op: checks its arguments, draws the seed, and takes the path that suits the call."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence

import torch
from torch import Tensor
from torch._C import _functorch, _get_tracing_state, _len_torch_dispatch_stack
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import get_proxy_mode
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
    check_rms_gradient,
    check_scale,
    check_shared_dims,
)
from sparseout.op import backends, custom_ops, dtensor, reference
from sparseout.op.autograd import EagerSparseout, FunctorchSparseout
from sparseout.op.backends import Backend
from sparseout.op.running_rms import RunningRMS


def sparseout(
    input: Tensor,
    p: float | Tensor = 0.5,
    q: float | Tensor = 2.0,
    training: bool = True,
    inplace: bool = False,
    *,
    scale: float | Tensor | RunningRMS = 1.0,
    gradient: Gradient = "detached",
    eps: float | None = None,
    shared_dims: int | Sequence[int] = (),
    generator: torch.Generator | None = None,
    backend: Backend | None = None,
) -> Tensor:
    """`y = x + s sign(x) |x/s|^(q/2) n`, `n = m / (1 - p) - 1`, `m ~ Bernoulli(1 - p)`: noise whose strength follows `|x|^(q/2)`.

    `E[y] = x` and `Var[y] = p / (1 - p) s^2 |x/s|^q`. `q = 2` is Dropout, a smaller `q` makes a network's activations sparser and
    a larger one denser. Evaluation and `p = 0` are the identity, `p = 1` gives zeros. `|x|^(q/2)` depends on the scale of `x`: at
    `|x| = s` all `q` agree, and below it a smaller `q` means stronger noise.

    A training call draws one 64-bit seed; the mask is a function of that seed and of each element's row-major index alone, so
    that it is the same on any device, in any dtype and memory layout, and is recomputed in the backward pass instead of kept.
    As for Dropout, ranks that are seeded alike draw alike, and after one `manual_seed` a CPU and a GPU draw different seeds.

    Args:
        input: `x`, of any shape (0-d and empty too): float16, bfloat16, float32 or float64. Half precision computes in float32.
            The result for a `DTensor` is one of the same placements, except that a partial sum is reduced and becomes replicated.
        p: drop probability in [0, 1]. As a 0-d tensor it may change without `torch.compile` compiling anew, and so may `q`.
        q: norm of the penalty that the noise amounts to, at least 0.
        training: draw noise; False returns `input`.
        inplace: write the result into `input`. For `q` other than 2 the backward pass then keeps a copy of what was there.
        scale: `s`, the unit in which `|x|` is measured: a positive finite number, or a 0-d tensor on the CPU or the device of
            `input`, which may change as `p` may. It is a constant of both gradients. `q = 2` does not depend on it. Layers also
            take `"rms"`. The kernels compute `s^(1 - q/2) |x|^(q/2)`, of which each factor must lie in the range of the dtype
            that computes (float32 for half precision), else the noise leaves it too: `s` from 1e-6 to 1e6 does for `q` up to 4.
        gradient: `"detached"` holds the noise's factor constant, `dL/dx = dL/dy (1 + (|x/s| + eps)^((q-2)/2) n)`: it controls
            sparsity monotonically, and is what the paper's authors published. `"exact"` is the derivative of `y`,
            `dL/dx = dL/dy (1 + (q/2) (|x/s| + eps)^((q-2)/2) n)`: a network can escape it by scaling its activations.
        eps: positive bound of the backward factor for `q < 2`. Default 1e-6; in float16 never less than 1e-4.
        shared_dims: dimensions along which one draw is shared; negative ones count from the end. `(2, 3)` drops whole channels
            of an image batch, `(1,)` uses one mask for all time steps of a batch-first sequence.
        generator: source of the seed, on the device of `input`. Default: that device's default generator. Activation
            checkpointing rewinds the default generators, and not this one. `torch.compile` can't follow it: such a call runs
            as it is, and raises with `fullgraph=True`.
        backend: `"cpu"`, `"gpu"` or `"reference"` insists on an implementation; `sparseout.backends()` prints which there are.
            Default: the kernel of the input's device where it can be used, the reference elsewhere.

    Returns:
        `y`, of the shape, dtype and memory layout of `input`; `input` itself in evaluation or in place.

    Raises:
        TypeError: an argument is of the wrong type, or `input` is not a dense tensor of a dtype above, or is a subclass that does
            not support the operations of Sparseout.
        ValueError: an argument is out of its range, or the `backend` asked for cannot take `input`.
        RuntimeError: `torch.jit.trace`, or the ONNX exporter that uses it, records a training call.

    Source: Khan and Stavness (2019), *Sparseout: Controlling Sparsity in Deep Networks*, arXiv:1904.08050. The sign makes the
    paper's perturbation, written there for rectified activations, equal Dropout at `q = 2` for every activation.

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
    compiling = torch.compiler.is_compiling()
    check_input(input)
    p = p if compiling and isinstance(p, Tensor) else check_p(p)
    q = q if compiling and isinstance(q, Tensor) else check_q(q)
    if not isinstance(scale, RunningRMS) and not (compiling and isinstance(scale, Tensor)):
        scale = check_scale(scale, input.device)
    if gradient != "detached":
        check_choice("gradient", gradient, GRADIENTS)
        if isinstance(scale, RunningRMS):
            check_rms_gradient(gradient)
    eps = 1e-6 if eps is None else check_eps(eps)
    if input.dtype is torch.float16:
        eps = max(eps, 1e-4)
    dims = () if shared_dims == () else check_shared_dims(shared_dims, input.dim())
    if generator is not None:
        check_generator(generator, input.device)
    if compiling and generator is not None:
        raise ValueError("generator must be None under torch.compile: seed the default generator with torch.manual_seed")
    chosen = None if compiling else backends.choose(input, backend)
    if not training:
        return input
    if _get_tracing_state() is not None:
        raise RuntimeError(
            "torch.jit.trace, and torch.onnx.export(dynamo=False) by it, would record one mask of Sparseout for all calls: "
            "use torch.export or torch.compile to train, or trace model.eval()"
        )
    if chosen is None or chosen == "reference" or _len_torch_dispatch_stack():
        return _apply(input, p, q, inplace, scale, gradient, eps, dims, generator, backend)
    p, q = float(p), float(q)
    x = input.clone() if inplace and not reference.is_multiplicative(p, q) else input
    drawn = _draw_integer(generator) if chosen == "cpu" else custom_ops.random_seed(input, generator)
    if isinstance(scale, RunningRMS):
        scale = scale.number(input, drawn) if isinstance(drawn, int) else scale.tensor(input, drawn)
    if not inplace and not (input.requires_grad and torch.is_grad_enabled()):
        return backends.forward(input, p, q, drawn, scale, dims, chosen)
    # copy_ refuses the leaves and overlaps that must not be written to, and knows what to do with views.
    direct = inplace and chosen == "cpu" and input.is_contiguous() and not (input.is_leaf or input._is_view())
    y = EagerSparseout.apply(x, p, q, drawn, scale, gradient, eps, dims, chosen, input if direct else None)
    return input.copy_(y) if inplace and not direct else y


class _Buffer(threading.local):
    """One number of a thread's own, in which a seed is drawn without the cost of a new tensor."""

    def __init__(self) -> None:
        with torch.inference_mode(False):
            self.tensor = torch.empty(1, dtype=torch.int64, device="cpu")
        self.view = (ctypes.c_int64 * 1).from_address(self.tensor.data_ptr())


_buffer = _Buffer()


def _draw_integer(generator: torch.Generator | None) -> int:
    """The number that `operators.random_seed` would give on the CPU."""
    _buffer.tensor.random_(0, 2**63 - 1, generator=generator)
    return _buffer.view[0]


def _apply(
    input: Tensor,
    p: float | Tensor,
    q: float | Tensor,
    inplace: bool,
    scale: float | Tensor | RunningRMS,
    gradient: Gradient,
    eps: float,
    dims: tuple[int, ...],
    generator: torch.Generator | None,
    backend: Backend | None,
) -> Tensor:
    """The op where no kernel reads `input` directly: compiled and recorded calls, transforms, and subclasses of tensors."""
    compiling, plain = torch.compiler.is_compiling(), type(input) in backends.PLAIN
    # A compiler cannot follow the transforms of torch.func into an operator: it runs those calls as they are.
    transformed = _functorch.maybe_current_level() is not None or forward_ad._current_level >= 0
    x = input.clone() if inplace else input
    if dtensor.is_dtensor(input):
        y = dtensor.noise(x, p, q, scale, gradient, eps, dims, generator, backend)
    elif not compiling and isinstance(input, FakeTensor):
        with input.fake_mode as mode:
            if isinstance(scale, RunningRMS) and get_proxy_mode() is None:  # else a graph would hold the fake
                scale = RunningRMS(mode.from_tensor(scale.value))
            y = _record(x, p, q, scale, gradient, eps, dims, generator, backend)
    elif not transformed and (compiling or (plain and _len_torch_dispatch_stack())):
        y = _record(x, p, q, scale, gradient, eps, dims, generator, backend)
    else:
        if backends.is_freed(input):
            raise TypeError("input must have memory, got a tensor whose storage was freed or resized to 0")
        try:
            y = _transform(x, float(p), float(q), scale, gradient, eps, dims, generator, transformed)
        except Exception as error:
            if plain or isinstance(error, torch.OutOfMemoryError):
                raise
            kind, reason = type(input).__name__, str(error).partition("\n")[0]
            message = f"input is a {kind}, which does not support Sparseout: apply it to the plain tensor inside ({reason})"
            raise TypeError(message) from error
    return input.copy_(y) if inplace else y


def _record(
    input: Tensor,
    p: float | Tensor,
    q: float | Tensor,
    scale: float | Tensor | RunningRMS,
    gradient: Gradient,
    eps: float,
    dims: tuple[int, ...],
    generator: torch.Generator | None,
    backend: Backend | None,
) -> Tensor:
    seed = custom_ops.draw(input, generator)
    s = scale.tensor(input, seed) if isinstance(scale, RunningRMS) else scale
    return custom_ops.noise(input, p, q, seed, s, gradient, eps, dims, backend)


def _transform(
    input: Tensor,
    p: float,
    q: float,
    scale: float | Tensor | RunningRMS,
    gradient: Gradient,
    eps: float,
    dims: tuple[int, ...],
    generator: torch.Generator | None,
    transformed: bool,
) -> Tensor:
    seed = custom_ops.random_seed(input, generator)
    if isinstance(scale, RunningRMS):
        scale = scale.fixed() if transformed else scale.tensor(input, seed)
    if not isinstance(scale, Tensor):
        scale = torch.tensor(scale, dtype=torch.float64, device="cpu")
    y: Tensor = FunctorchSparseout.apply(input, seed, scale, p, q, gradient, eps, dims)
    return y
