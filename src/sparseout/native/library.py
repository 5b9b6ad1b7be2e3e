"""Finds and loads the shared library of compiled code, and declares the types of its functions' arguments.

The library has a plain C interface: it contains no torch or Python headers, so one build works with every version of both.
"""

from __future__ import annotations

import ctypes
import importlib.resources

_FILES = ("libsparseout_cpu.so", "libsparseout_cpu.dll")
_INSTRUCTION_SETS = ("baseline", "avx2", "avx512")

_number, _float, _int, _int64, _uint64, _size, _pointer = (
    ctypes.c_double,
    ctypes.c_float,
    ctypes.c_int,
    ctypes.c_int64,
    ctypes.c_uint64,
    ctypes.c_size_t,
    ctypes.c_void_p,
)


def _load() -> tuple[ctypes.CDLL | None, str]:
    """Return the library and an empty string, or None and the reason why there is no library."""
    folder = importlib.resources.files(__package__)
    names = [name for name in _FILES if folder.joinpath(name).is_file()]
    if not names:
        return None, "there is no compiled kernel: sparseout was installed without one, as on Windows or without a C compiler"
    try:
        with importlib.resources.as_file(folder.joinpath(names[0])) as path:
            library = ctypes.CDLL(str(path))
    except OSError as error:
        return None, f"the compiled kernel cannot be loaded: {error}"
    library.sparseout_settings_size.restype = _size
    # settings, dtype, threshold, whether y = x * noise, p, q, factor of the gradient's power, instruction set
    library.sparseout_prepare.argtypes = (_pointer, _int, _uint64, _int, _number, _number, _number, _int)
    library.sparseout_prepare.restype = None
    library.sparseout_run.argtypes = (
        *(_pointer, _pointer, _pointer, _pointer, _int64, _pointer),  # settings, grad, input, output, count, layout
        *(_uint64, _number, _number, _int),  # seed, scale, eps, threads
    )
    library.sparseout_run.restype = None
    library.sparseout_basic_sums.argtypes = (_int, _pointer, _int64, _int64, _int, _pointer)
    library.sparseout_moments.argtypes = (_int, _pointer, _int64, _int64, _pointer)
    library.sparseout_moments.restype = None
    library.sparseout_running_rms.argtypes = (
        *(_int, _pointer, _int64, _int64),  # whether float64, sample, its count and step
        *(_pointer, _number, _int),  # value, momentum, whether it learns
    )
    library.sparseout_running_rms.restype = _number
    library.sparseout_matched_scale.argtypes = (
        *(_int, _pointer, _int64, _int64),  # whether float64, sample, its count and step
        *(_pointer, _pointer, _pointer, _number, _int),  # value, moments, weights, momentum, whether it learns
    )
    library.sparseout_matched_scale.restype = _number
    library.sparseout_advise.argtypes = (_pointer, _size)  # memory, bytes
    library.sparseout_advise.restype = None
    library.sparseout_skip_zeros.argtypes = (
        *(_pointer, _pointer, _pointer, _pointer),  # input, weight, bias, output
        *(_int64, _int64, _int64, _float, _int),  # rows, inputs, columns, cutoff, whether the weight is bfloat16
        *(_int, _int),  # threads, instruction set
    )
    return library, ""


LIBRARY, MISSING = _load()
HAS_THREADS = bool(LIBRARY and LIBRARY.sparseout_has_threads())
AVAILABLE = _INSTRUCTION_SETS[: LIBRARY.sparseout_instruction_sets()] if LIBRARY else ()
