"""Which implementation computes a call: a kernel where one can, else the reference."""

from __future__ import annotations

import os
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch._C import _functorch
from torch.autograd import forward_ad

from sparseout.native.library import AVAILABLE, MISSING
from sparseout.op import cpu, gpu, reference
from sparseout.op.scale import FREED

Backend = Literal["cpu", "gpu", "reference"]

PLAIN = (Tensor, nn.Parameter)  # the types whose elements a kernel may read

ASKED = os.environ.get("SPARSEOUT_BACKEND") or None  # read once; a call's own `backend` comes first


def backends() -> None:
    """Print which implementations there are, which tensors each takes, and why not where it takes none.

    `"cpu"` is the compiled kernel for tensors on the CPU, `"gpu"` the Triton kernel for those on a CUDA or ROCm device, and
    `"reference"` plain torch for all else. The argument `backend=` insists on one for a call, and the environment variable
    `SPARSEOUT_BACKEND`, read at import, for all calls; both raise a ValueError where it cannot be used.

    >>> sparseout.backends()  # doctest: +SKIP
    cpu        takes CPU tensors: compiled kernel, avx512, 2 threads
    gpu        not here: this build of torch is for the CPU alone
    reference  takes all others: plain torch
    """
    kernel = f"compiled kernel, {AVAILABLE[cpu.used]}, {torch.get_num_threads()} threads" if AVAILABLE else ""
    for name, tensors, missing, what in (
        ("cpu", "CPU tensors", MISSING, kernel),
        ("gpu", "GPU tensors", gpu.MISSING, "Triton kernel"),
        ("reference", "all others", "", "plain torch"),
    ):
        print(f"{name:9}  not here: {missing}" if missing else f"{name:9}  takes {tensors}: {what}")
    if ASKED:
        print(f"SPARSEOUT_BACKEND={ASKED} insists on {ASKED!r}")


def choose(input: Tensor, backend: Backend | None = None) -> Backend:
    """The backend that was asked for, or the fastest one that can take `input`.

    Raises:
        ValueError: the backend that was asked for is none, or cannot take `input`.
    """
    asked = backend or ASKED
    if asked is None:
        if input.is_cpu:
            return "reference" if MISSING or not _is_readable(input) else "cpu"
        return "reference" if _why_not("gpu", input) else "gpu"
    source = "backend" if backend else "the environment variable SPARSEOUT_BACKEND"
    if asked not in get_args(Backend):
        raise ValueError(f"{source} must be one of {', '.join(map(repr, get_args(Backend)))}, got {asked!r}")
    reason = None if asked == "reference" else _why_not(asked, input)
    if reason:
        raise ValueError(f"{source} is {asked!r}, which cannot be used here: {reason}")
    return asked  # type: ignore[return-value]


def forward(
    input: Tensor,
    p: float,
    q: float,
    seed: Tensor | int,
    scale: float | Tensor,
    shared_dims: tuple[int, ...],
    backend: Backend,
    output: Tensor | None = None,
) -> Tensor:
    """`reference.forward`, by the backend that was chosen; on the CPU into `output` where it is given."""
    if backend == "cpu":
        return cpu.forward(input, p, q, int(seed), shared_dims, float(scale), output)
    if backend == "gpu":
        assert isinstance(seed, Tensor)
        return gpu.forward(input, p, q, seed, shared_dims, scale)
    return reference.forward(input, p, q, seed, shared_dims, scale)


def backward(
    grad: Tensor,
    input: Tensor | None,
    p: float,
    q: float,
    seed: Tensor | int,
    scale: float | Tensor,
    gradient: str,
    eps: float,
    shared_dims: tuple[int, ...],
    backend: Backend,
) -> Tensor:
    """`reference.backward`, by the backend that was chosen; by the reference where autograd or a transform must follow it."""
    if backend != "reference" and _is_readable(grad) and not torch.is_grad_enabled():
        if backend == "cpu":
            return cpu.backward(grad, input, p, q, int(seed), gradient, eps, shared_dims, float(scale))
        assert isinstance(seed, Tensor)
        check_kept(input)
        return gpu.backward(grad, input, p, q, seed, gradient, eps, shared_dims, scale)
    check_kept(input)
    return reference.backward(grad, input, p, q, seed, gradient, eps, shared_dims, scale)


def is_plain(tensor: Tensor) -> bool:
    """Whether the elements of `tensor` lie in memory of its own, as its strides say, and may be read there.

    They do not in a subclass, in a transform of `torch.func` and in forward-mode AD; in sparse, nested, quantized, meta and
    functional tensors; in zeros, conjugates and negatives that are not computed yet; and where the storage was freed.

    >>> is_plain(torch.ones(3).t()), is_plain(torch.ones(3).to_sparse())
    (True, False)
    """
    return _is_readable(tensor) and not (tensor.is_nested or tensor.is_quantized or tensor.is_conj())


def _is_readable(tensor: Tensor) -> bool:
    """`is_plain` for a real tensor that is neither nested nor quantized."""
    if (
        type(tensor) not in PLAIN
        or _functorch.peek_interpreter_stack() is not None
        or forward_ad._current_level >= 0
        or tensor.is_neg()
    ):
        return False
    try:
        return tensor.data_ptr() != 0 or (tensor.numel() == 0 and not tensor.is_meta)
    except RuntimeError:  # there is no storage
        return False


def is_freed(tensor: Tensor) -> bool:
    """Whether the storage that `tensor` should have was freed, so that torch too would read what is not there."""
    keys, key = torch._C._dispatch_keys(tensor), torch._C.DispatchKey
    if any(keys.has(none) for none in (key.Python, key.Meta, key.ZeroTensor, key.Functionalize)):
        return False
    try:
        return tensor.data_ptr() == 0 and tensor.numel() > 0
    except RuntimeError:  # a transform's tensor has no storage
        return False


def check_kept(input: Tensor | None) -> None:
    """Raise if the memory of an input that a backward pass needs was freed since the forward pass."""
    if input is not None and is_freed(input):
        raise RuntimeError(FREED)


def _why_not(backend: str, input: Tensor) -> str | None:
    """Why a kernel cannot take `input`, or None if it can."""
    on_its_device = input.is_cuda if backend == "gpu" else input.is_cpu
    if not on_its_device:
        return f"input is on {input.device}"
    missing = gpu.MISSING if backend == "gpu" else MISSING
    if missing:
        return missing
    if type(input) not in PLAIN:
        return f"input is a {type(input).__name__}, not a plain torch.Tensor"
    return None if _is_readable(input) else "input has no memory of its own, or is inside a transform or forward-mode AD"
