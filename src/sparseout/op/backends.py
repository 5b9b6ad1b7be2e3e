"""Chooses the implementation of a call: the kernel of the input's device, or the reference if that kernel cannot be used."""

from __future__ import annotations

import os
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from sparseout.native.library import AVAILABLE, HAS_THREADS, MISSING
from sparseout.notebook import page
from sparseout.op import cpu, gpu, reference
from sparseout.op.settings import FREED, Settings
from sparseout.torch_internals import is_freed, is_transforming

Backend = Literal["cpu", "gpu", "reference"]

PLAIN = (Tensor, nn.Parameter)  # types whose elements a kernel may read

ASKED = os.environ.get("SPARSEOUT_BACKEND") or None  # read once; the argument `backend` of a call overrides it


class Backends(NamedTuple):
    """The implementations: rows of the name, the tensors it supports, and what it is or why it is unavailable."""

    rows: tuple[tuple[str, str, str], ...]
    forced: str = ""

    def __repr__(self) -> str:
        lines = [f"{name:9}  {f'{tensors}: {text}' if tensors else text}" for name, tensors, text in self.rows]
        return "\n".join([*lines, *filter(None, [self.forced])])

    def _repr_html_(self) -> str:
        return page([], [("backend", "tensors", "implementation"), *self.rows], [self.forced] if self.forced else [])


def backends() -> Backends:
    """Return the available implementations, the tensors that each one supports, and why an implementation is unavailable.

    `"cpu"` is the compiled kernel for CPU tensors, `"gpu"` the Triton kernel for tensors on a CUDA or ROCm device, and
    `"reference"` is plain torch, to which all other inputs fall back. The argument `backend=` forces an implementation for one
    call, and the environment variable `SPARSEOUT_BACKEND`, read at import, forces it for all calls. Both raise a ValueError if
    that implementation cannot be used.

    >>> sparseout.backends()  # doctest: +SKIP
    cpu        CPU tensors: compiled kernel, avx512, 2 threads
    gpu        unavailable: this build of torch is for the CPU only
    reference  all other tensors: plain torch
    """
    threads = f"{torch.get_num_threads()} threads" if HAS_THREADS else "1 thread, built without OpenMP"
    kernel = f"compiled kernel, {AVAILABLE[cpu.used]}, {threads}" if AVAILABLE else ""
    rows = tuple(
        (name, "", f"unavailable: {missing}") if missing else (name, tensors, implementation)
        for name, tensors, missing, implementation in (
            ("cpu", "CPU tensors", MISSING, kernel),
            ("gpu", "GPU tensors", gpu.MISSING, "Triton kernel"),
            ("reference", "all other tensors", "", "plain torch"),
        )
    )
    return Backends(rows, f"SPARSEOUT_BACKEND={ASKED} forces {ASKED!r}" if ASKED else "")


def choose(input: Tensor, backend: Backend | None = None) -> Backend:
    """Return the backend that the caller or the environment forces, or else the fastest one that supports `input`.

    Raises:
        ValueError: the forced backend does not exist, or does not support `input`.
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


def forward(input: Tensor, seed: Tensor | int, settings: Settings, backend: Backend, output: Tensor | None = None) -> Tensor:
    """Compute `reference.forward` by `backend`; the CPU kernel writes into `output` if it is given."""
    if backend == "cpu":
        return cpu.forward(input, int(seed), settings, output)
    if backend == "gpu":
        assert isinstance(seed, Tensor)
        return gpu.forward(input, seed, settings)
    return reference.forward(input, seed, settings)


def backward(grad: Tensor, input: Tensor | None, seed: Tensor | int, settings: Settings, backend: Backend) -> Tensor:
    """Compute `reference.backward` by `backend`, or by the reference if autograd or a transform must follow the computation."""
    if input is not None and is_freed(input):
        raise RuntimeError(FREED)
    if backend != "reference" and not torch.is_grad_enabled() and _is_readable(grad):
        if backend == "cpu":
            return cpu.backward(grad, input, int(seed), settings)
        assert isinstance(seed, Tensor)
        return gpu.backward(grad, input, seed, settings)
    return reference.backward(grad, input, seed, settings)


def is_plain(tensor: Tensor) -> bool:
    """Return whether the elements of `tensor` lie in its own memory, as its strides say, and may be read there.

    False for subclasses of tensors; for sparse, nested, quantized, meta and functional tensors; for lazy zeros, conjugates and
    negatives; for tensors whose storage was freed; and inside transforms of `torch.func` and forward-mode AD.

    >>> is_plain(torch.ones(3).t()), is_plain(torch.ones(3).to_sparse())
    (True, False)
    """
    return _is_readable(tensor) and not (tensor.is_nested or tensor.is_quantized or tensor.is_conj())


def _is_readable(tensor: Tensor) -> bool:
    """Return `is_plain(tensor)` for a real tensor that is neither nested nor quantized."""
    if type(tensor) not in PLAIN or is_transforming() or tensor.is_neg():
        return False
    try:
        return tensor.untyped_storage().data_ptr() != 0 or (tensor.numel() == 0 and not tensor.is_meta)
    except RuntimeError:  # there is no storage
        return False


def _why_not(backend: str, input: Tensor) -> str | None:
    """Return why a kernel does not support `input`, or None if it does."""
    on_its_device = input.is_cuda if backend == "gpu" else input.is_cpu
    if not on_its_device:
        return f"input is on {input.device}"
    missing = gpu.MISSING if backend == "gpu" else MISSING
    if missing:
        return missing
    if type(input) not in PLAIN:
        return f"input is a {type(input).__name__}, not a plain torch.Tensor"
    return None if _is_readable(input) else "input has no memory of its own, or a transform or forward-mode AD is active"
