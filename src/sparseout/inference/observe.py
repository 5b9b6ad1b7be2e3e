"""The inputs of linear layers, recorded while an example runs."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparseout.batches import arguments
from sparseout.inference.layer import SkipZerosLinear

Run = Callable[[nn.Module], Any]

_TIMED_RUNS = 8
_MOST = 2**24  # elements of a layer's inputs that are kept: 64 MB
_OTHERS: tuple[tuple[Any, str], ...] = (
    ((nn.RNNBase, nn.RNNCellBase), "recurrent layers are not supported"),
    (nn.modules.conv._ConvNd, "convolutions are not supported"),
    (nn.MultiheadAttention, "nn.MultiheadAttention reads its weights in one fused call"),
    (nn.Bilinear, "bilinear layers are not supported"),
)


def check_model(model: nn.Module) -> None:
    """Raise unless `model` is an uncompiled module on the CPU in evaluation mode."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if any(module.training for module in model.modules()):
        raise ValueError("model must be in evaluation mode: call model.eval() first")
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if not tensor.is_cpu:
            raise ValueError(f"model must be on the CPU, got {name} on {tensor.device}")
    if any(hasattr(module, "_orig_mod") or module._compiled_call_impl is not None for module in model.modules()):
        raise ValueError("model must not be compiled: call torch.compile on the result instead")


def runner(model: nn.Module, example: Any) -> Run:
    """Return a function that runs a model like `model` on `example` without gradients."""
    args, kwargs = ((), {}) if callable(example) else arguments(model, example)

    @torch.no_grad()
    def run(model: nn.Module) -> Any:
        return example(model) if callable(example) else model(*args, **kwargs)

    return run


def linear_layers(model: nn.Module) -> tuple[dict[str, nn.Linear], dict[str, str]]:
    """Return the layers that could skip zeros by name, and the reason why each other layer cannot."""
    layers: dict[str, nn.Linear] = {}
    reasons: dict[str, str] = {}
    owners: dict[nn.Parameter | None, list[str]] = {}
    for name, module in model.named_modules():
        for key, parameter in module._parameters.items():
            owners.setdefault(parameter, []).append(f"{name}.{key}".removeprefix("."))
    for name, module in model.named_modules():
        reason = next((words for kinds, words in _OTHERS if isinstance(module, kinds)), "")
        if isinstance(module, nn.Linear) and not reason:
            reason = _why_not(module, owners)
            if not reason:
                layers[name] = module
        if reason:
            reasons[name] = reason
    return layers, reasons


def _why_not(layer: nn.Linear, owners: Mapping[nn.Parameter | None, Sequence[str]]) -> str:
    if isinstance(layer, SkipZerosLinear):
        return "skips zeros already"
    if type(layer).forward is not nn.Linear.forward or "forward" in vars(layer):
        return f"{type(layer).__name__} has a forward of its own"
    parameter = layer._parameters.get("weight")
    if parameter is None or type(parameter) is not nn.Parameter:
        return "its weight is computed or wrapped, not a plain parameter"
    if parameter.dtype not in (torch.float32, torch.bfloat16):
        return f"its weight is {str(parameter.dtype).removeprefix('torch.')}, not float32 or bfloat16"
    return f"its weight is shared: {' and '.join(owners[parameter])}" if len(owners[parameter]) > 1 else ""


@contextlib.contextmanager
def wrapped(forwards: Mapping[str, tuple[nn.Linear, Callable[[Tensor], Tensor]]]) -> Iterator[None]:
    """Replace the `forward` of layers for a while."""
    # Hooks would switch off the fused calls of nn.TransformerEncoderLayer, which never reach these layers.
    try:
        for layer, forward in forwards.values():
            vars(layer)["forward"] = forward
        yield
    finally:
        for layer, _ in forwards.values():
            vars(layer).pop("forward", None)


def record_inputs(model: nn.Module, run: Run, layers: Mapping[str, nn.Linear]) -> dict[str, list[Tensor]]:
    """Run the example and return copies of each layer's inputs, one `(rows, in)` for each call.

    The calls after the first 64 MB of a layer are not kept.
    """
    inputs: dict[str, list[Tensor]] = {name: [] for name in layers}

    def wrap(name: str, layer: nn.Linear) -> Callable[[Tensor], Tensor]:
        def forward(input: Tensor) -> Tensor:
            kept = inputs[name]
            if not kept or sum(map(Tensor.numel, kept)) + input.numel() <= _MOST:
                kept.append(input.detach().reshape(-1, layer.in_features).clone())
            return nn.Linear.forward(layer, input)

        return forward

    with wrapped({name: (layer, wrap(name, layer)) for name, layer in layers.items()}):
        run(model)
    return {name: [each for each in kept if len(each)] for name, kept in inputs.items()}


def time_shares(
    model: nn.Module, run: Run, layers: Mapping[str, nn.Linear], fill_cache: Callable[[], Any]
) -> tuple[float, float]:
    """Return the fraction of the time of `run(model)` that `layers` take, with cold and with warm weights.

    It is the least time in `layers` divided by the least time of a run, over several runs: other processes only add to both.
    """
    spent = 0.0

    def wrap(layer: nn.Linear) -> Callable[[Tensor], Tensor]:
        def forward(input: Tensor) -> Tensor:
            nonlocal spent
            start = time.perf_counter()
            output = nn.Linear.forward(layer, input)
            spent += time.perf_counter() - start
            return output

        return forward

    def timed() -> tuple[float, float]:
        nonlocal spent
        spent, start = 0.0, time.perf_counter()
        run(model)
        seconds = time.perf_counter() - start
        return seconds, spent

    cold: list[tuple[float, float]] = []
    warm: list[tuple[float, float]] = []
    with wrapped({name: (layer, wrap(layer)) for name, layer in layers.items()}):
        for _ in range(_TIMED_RUNS):
            fill_cache()
            cold.append(timed())
            warm.append(timed())
    (cold_total, cold_spent), (warm_total, warm_spent) = (map(min, zip(*times, strict=True)) for times in (cold, warm))
    return min(cold_spent / cold_total, 1.0), min(warm_spent / warm_total, 1.0)


def active_fraction(inputs: Sequence[Tensor], cutoff: float) -> float:
    """Return the fraction of the inputs with `|x| > cutoff`."""
    return sum(int(_active(x, cutoff).sum()) for x in inputs) / sum(x.numel() for x in inputs)


def unions(inputs: Sequence[Tensor], cutoff: float) -> dict[int, float]:
    """Return, by batch size, the fraction of units that any row of a batch of consecutive rows activates."""
    active = torch.cat([_active(x, cutoff) for x in inputs])
    sizes = [size for size in (1, 2, 4, 8) if size <= len(active)]
    return {size: _batches(active, size).any(1).float().mean().item() for size in sizes}


def quantile(inputs: Sequence[Tensor], fraction: float) -> float:
    """Return the smallest magnitude that at least `fraction` of the inputs do not exceed."""
    magnitudes = torch.cat([x.reshape(-1) for x in inputs]).abs()
    return magnitudes.kthvalue(max(1, math.ceil(fraction * len(magnitudes)))).values.item()


def _active(x: Tensor, cutoff: float) -> Tensor:
    return ~(x.abs() <= cutoff)


def _batches(active: Tensor, size: int) -> Tensor:
    return active[: len(active) // size * size].view(-1, size, active.shape[1])


@functools.cache
def _generator() -> torch.Generator:
    return torch.Generator()


def with_more_rows(x: Tensor, rows: int) -> Tensor:
    """Return `rows` rows like those of `x`, with the units of each in a random order, so that their zeros are independent."""
    generator = _generator().manual_seed(rows)
    repeated = x.repeat(-(-rows // len(x)), 1)[:rows]
    return repeated.gather(1, torch.rand(repeated.shape, generator=generator).argsort(1))
