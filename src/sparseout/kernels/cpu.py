"""The compiled CPU kernel: its loader, and a call a pass. The library beside this file holds no torch or Python headers."""

from __future__ import annotations

import ctypes
import importlib.resources

import torch
from torch import Tensor

from sparseout import reference

_KINDS = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}


def _load() -> tuple[ctypes.CDLL | None, str]:
    """The library, or None and the reason."""
    folder = importlib.resources.files("sparseout.kernels")
    names = [name for name in ("libsparseout_cpu.so", "libsparseout_cpu.dll") if folder.joinpath(name).is_file()]
    if not names:
        return None, "there is no compiled kernel: no C compiler was found when sparseout was installed"
    try:
        with importlib.resources.as_file(folder.joinpath(names[0])) as path:
            library = ctypes.CDLL(str(path))
    except OSError as error:
        return None, f"the compiled kernel cannot be loaded: {error}"
    number, integer, pointer = ctypes.c_double, ctypes.c_int, ctypes.c_void_p
    library.sparseout_run.argtypes = [integer, pointer, pointer, pointer, ctypes.c_int64, ctypes.c_uint64, ctypes.c_uint64]
    library.sparseout_run.argtypes += [integer, number, number, number, number, integer, integer]
    library.sparseout_run.restype = None
    library.sparseout_instruction_set.restype = ctypes.c_char_p
    return library, ""


LIBRARY, MISSING = _load()
BASELINE_ONLY = False  # tests set it: the code for machines without AVX2, on one that has it


def instruction_set() -> str:
    """The instruction set that this machine's calls use; empty where there is no kernel."""
    return LIBRARY.sparseout_instruction_set().decode() if LIBRARY else ""


def forward(input: Tensor, p: float, q: float, seed: int) -> Tensor:
    """`reference.forward` of a contiguous tensor on the CPU."""
    output = torch.empty_like(input)
    _run(None, input, output, p, q, seed, q / 2, 0.0, 0.0)
    return output


def backward(grad: Tensor, input: Tensor | None, p: float, q: float, seed: int, gradient: str, eps: float) -> Tensor:
    """`reference.backward` of contiguous tensors on the CPU."""
    output = torch.empty_like(grad)
    coefficient = q / 2 if gradient == "exact" else 1.0
    _run(grad, input, output, p, q, seed, (q - 2) / 2, eps, coefficient)
    return output


def _run(
    grad: Tensor | None,
    input: Tensor | None,
    output: Tensor,
    p: float,
    q: float,
    seed: int,
    exponent: float,
    eps: float,
    coefficient: float,
) -> None:
    assert LIBRARY is not None
    LIBRARY.sparseout_run(
        _KINDS[output.dtype],
        None if grad is None else grad.data_ptr(),
        None if input is None else input.data_ptr(),
        output.data_ptr(),
        output.numel(),
        seed & 0xFFFFFFFFFFFFFFFF,
        round(p * 2**32),
        reference.is_product(p, q),
        p,
        exponent,
        eps,
        coefficient,
        torch.get_num_threads(),
        BASELINE_ONLY,
    )
