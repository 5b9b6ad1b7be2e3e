"""Checks of arguments. Each error is one line that names the argument, its value and the allowed values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

Gradient = Literal["detached", "exact"]
GRADIENTS: tuple[Gradient, ...] = get_args(Gradient)
RunningScale = Literal["rms", "matched"]
RUNNING_SCALES: tuple[RunningScale, ...] = get_args(RunningScale)
LayerScale: TypeAlias = float | RunningScale

_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_input(input: Tensor, name: str = "input") -> None:
    """Raise unless `input`, the argument `name`, is a dense tensor of a supported dtype."""
    if not isinstance(input, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(input).__name__}")
    if input.layout != torch.strided or input.is_nested:
        kind = "nested" if input.is_nested else _name(input.layout)
        raise TypeError(f"{name} must be a dense tensor, got a {kind} one: apply sparseout to its values, or densify it")
    if input.dtype not in _DTYPES:
        raise TypeError(
            f"{name} must be float16, bfloat16, float32 or float64, got {_name(input.dtype)}: "
            f"convert it first, for example with {name}.float()"
        )


def check_p(p: float | Tensor) -> float:
    """Return `p` as a float; raise unless it is a real number in [0, 1], given as a number or a 0-d tensor."""
    if type(p) is float and 0.0 <= p <= 1.0:
        return p
    return check_number("p", p, 0.0, 1.0, "a drop probability in [0, 1]")


def check_q(q: float | Tensor) -> float:
    """Return `q` as a float; raise unless it is a finite real number of at least 0, given as a number or a 0-d tensor."""
    if type(q) is float and 0.0 <= q < math.inf:
        return q
    return check_number("q", q, 0.0, math.nextafter(math.inf, 0), "a finite norm of at least 0")


def check_scale(scale: float | Tensor, device: torch.device) -> float | Tensor:
    """Return `scale` as a float; raise unless it is positive and finite. A tensor on a GPU is not read, since that would wait."""
    if type(scale) is float and 0.0 < scale < math.inf:
        return scale
    if isinstance(scale, Tensor) and scale.dim() == 0 and scale.is_floating_point() and not scale.is_cpu:
        if scale.device != device:
            raise ValueError(f"scale must be on the CPU or on the device of input, {device}, got one on {scale.device}")
        return scale.detach()
    return check_number("scale", scale, math.ulp(0.0), math.nextafter(math.inf, 0), "a positive finite number")


def check_layer_scale(scale: LayerScale | str) -> LayerScale:
    """Return `scale`; raise unless it is a positive finite number or the name of a running scale."""
    for name in RUNNING_SCALES:
        if isinstance(scale, str) and scale == name:
            return name
    number: Any = scale
    return check_number(
        "scale", number, math.ulp(0.0), math.nextafter(math.inf, 0), "'rms', 'matched' or a positive finite number"
    )


def check_running_scale(scale: LayerScale | str, gradient: Gradient) -> None:
    """Raise unless `gradient` is allowed with `scale`."""
    if scale in RUNNING_SCALES and gradient == "exact":
        raise ValueError(
            f"gradient must be 'detached' with scale={scale!r}, got 'exact': at q = 3 a few units would grow without bound"
        )


def check_eps(eps: float) -> float:
    """Return `eps` as a float; raise unless it is positive and finite."""
    return check_number("eps", eps, math.ulp(0.0), math.nextafter(math.inf, 0), "None or a positive finite number")


def check_seed(seed: Tensor, device: torch.device) -> None:
    """Raise unless `seed` is a tensor of one 64-bit integer on `device`."""
    if seed.dtype != torch.int64 or seed.shape != (1,):
        kind = f"{_name(seed.dtype)} of shape {tuple(seed.shape)}"
        raise TypeError(f"seed must be int64 of shape (1,), got {kind}")
    if seed.device != device:
        raise ValueError(f"seed must be on the device of input, {device}, got one on {seed.device}")


def check_twin(name: str, tensor: Tensor, input: Tensor) -> None:
    """Raise unless `tensor` has the layout, dtype, shape and device of `input`."""
    check_input(tensor, name)
    if tensor.dtype != input.dtype:
        raise TypeError(f"{name} must be of the dtype of input, {_name(input.dtype)}, got {_name(tensor.dtype)}")
    if tensor.shape != input.shape:
        raise ValueError(f"{name} must be of the shape of input, {tuple(input.shape)}, got {tuple(tensor.shape)}")
    if tensor.device != input.device:
        raise ValueError(f"{name} must be on the device of input, {input.device}, got one on {tensor.device}")


def check_choice(name: str, value: Any, allowed: Sequence[Any]) -> Any:
    """Return `value`; raise unless it is one of `allowed`."""
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
    return value


def check_number(name: str, value: float | Tensor, low: float, high: float, allowed: str) -> float:
    """Return `value` as a float; raise unless it is a real number in [`low`, `high`]. The error describes them as `allowed`."""
    if isinstance(value, Tensor) and value.dim() == 0:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be {allowed}, got {value!r} of type {type(value).__name__}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be {allowed}, got {value!r}")
    return float(value)


def check_count(name: str, value: int, least: int) -> int:
    """Return `value`; raise unless it is an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer of at least {least}, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value}")
    return value


def check_integer(name: str, value: int, least: int, most: int) -> int:
    """Return `value`; raise unless it is an integer in [`least`, `most`]."""
    if check_count(name, value, least) > most:
        raise ValueError(f"{name} must be an integer of at most {most}, got {value}")
    return value


def check_shared_dims(shared_dims: int | Sequence[int], ndim: int) -> tuple[int, ...]:
    """Return the dimensions, counted from 0; raise unless each lies in the range of `ndim` and none occurs twice."""
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


def check_generator(generator: torch.Generator, device: torch.device) -> None:
    """Raise unless `generator` is a generator of `device`."""
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be None or a torch.Generator, got {type(generator).__name__}")
    if generator.device.type != device.type:
        raise ValueError(f"generator must be on the device of input, {device}, got one on {generator.device}")


def _name(kind: torch.dtype | torch.layout) -> str:
    return str(kind).removeprefix("torch.")
