"""`skip_zeros`: replaces the linear layers of a model that run faster when they skip zeros, and no others."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sparseout.checks import check_choice, check_number
from sparseout.inference import observe
from sparseout.inference.layer import convert
from sparseout.inference.report import LayerSpeed, Refusal, SkipReport
from sparseout.inference.timing import Timer
from sparseout.native.library import LIBRARY, MISSING

LEAST_SPEED = 1.2  # a layer is replaced only if it gets this many times faster
LEAST_MODEL_SPEED = 1.05  # and only if the whole model gets this many times faster, in each of `_MODEL_TRIALS` measurements
_MODEL_TRIALS = 3
_LARGEST_TRIED = 64  # rows up to which larger batches than the example's are measured
_SECONDS = 0.1  # for each measurement of a layer
_CALLS = 4  # calls of one size that are timed
_SIZES = 4  # sizes of calls that are timed, besides the largest


def skip_zeros(
    model: nn.Module,
    example: Any,
    *,
    inplace: bool = False,
    weights: Literal["float32", "bfloat16"] = "float32",
    threshold: float | None = None,
    loss: Callable[[nn.Module], float] | None = None,
) -> SkipReport:
    """Make the `nn.Linear` layers of `model` skip the zeros among their inputs, if that is at least 1.2 times faster.

    Each replaced layer computes `y = sum of x_j W[:, j] + b` over the non-zero `x_j` only, within 1e-5 relative of the dense
    product. The zeros are found by running `example`: the inputs of a layer after ReLU, possibly with Dropout or Sparseout in
    between, contain zeros, and those after GELU or SiLU do not. Every candidate is timed on its inputs of the example, with its
    weights in the cache and out of it. It is replaced if it is 1.2 times faster, in both cases, than `F.linear` and than the same
    kernel on inputs without zeros. If the whole model then gains less than 5 % in one of three measurements, all layers
    are left dense.

    The layers stay the same modules with the same hooks and `state_dict` keys. `sparseout.inference.restore` undoes the change.
    The measurements hold for this machine, its number of threads, and inputs as sparse as those of `example`.

    Args:
        model: in evaluation mode and on the CPU.
        example: typical input, in the batch size of later calls: a tensor, a tuple of arguments, a dict of keyword arguments or a
            batch of a `DataLoader`, read as `sparseout.batches.arguments` says. Or a function that runs the model it is given,
            for example `lambda model: model.generate(tokens)`.
        inplace: change `model` instead of a copy.
        weights: dtype of the weights of replaced layers. `"bfloat16"` halves the memory that is read, rounds the weights to 8
            bits of precision and still sums in float32. Layers in bfloat16 stay so in either case.
        threshold: fraction of each layer's inputs, in (0, 1), to set to zero: those of smallest magnitude on `example`. This
            changes the model's outputs. Default: None, only zeros are skipped.
        loss: a function from a model to its loss. The report gives its value before and after, as the price of `threshold`.

    Returns:
        A `SkipReport`; its `model` is `model` if in place, else the changed copy.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or out of range, or the model is compiled, in training mode or on
            another device. Nothing is changed then. Exceptions of the model itself pass through.

    >>> import sparseout
    >>> model = nn.Sequential(nn.Linear(8, 8), nn.GELU(), nn.Linear(8, 2)).eval()
    >>> sparseout.skip_zeros(model, torch.randn(4, 8))
    0 of 2 linear layers skip zeros
    0, 2: 100 % active: too few zeros
    """
    observe.check_model(model)
    dtype = _dtype(weights)
    if threshold is not None:
        threshold = check_number("threshold", threshold, 1e-6, 1 - 1e-6, "None or a fraction in (0, 1)")
    if loss is not None and (threshold is None or not callable(loss)):
        raise ValueError(f"loss must be a function of the model, given together with threshold, got {loss!r}")
    run = observe.runner(model, example)
    layers, reasons = observe.linear_layers(model)
    inputs = observe.record_inputs(model, run, layers)
    reasons.update({name: "not called on the example; another module may read its weight" for name in layers if not inputs[name]})
    timer = Timer()
    trials = [_try(timer, name, layers[name], inputs[name], dtype, threshold) for name in layers if inputs[name]]
    report = SkipReport(model, tuple(trials), tuple(Refusal(*each) for each in reasons.items()), copied=not inplace)
    changed = copy.deepcopy(model) if report.replaced or not inplace else model
    if report.replaced:
        _apply(changed, report.layers, dtype)
        report = _compare(timer, model, changed, run, example, report)
        if inplace or not report.replaced:
            changed = model if inplace else copy.deepcopy(model)
    with torch.no_grad():
        before = None if loss is None else float(loss(model))
        if inplace:
            _apply(model, report.layers, dtype)
        after = None if loss is None else float(loss(changed))
    return replace(report, model=changed, loss_before=before, loss_after=after)


def _dtype(weights: Any) -> torch.dtype:
    check_choice("weights", weights, ("float32", "bfloat16"))
    if weights == "bfloat16" and LIBRARY is None:
        raise ValueError(f"weights must be 'float32' without the compiled kernel, got 'bfloat16': {MISSING}")
    return torch.bfloat16 if weights == "bfloat16" else torch.float32


def _try(
    timer: Timer, name: str, layer: nn.Linear, inputs: Sequence[Tensor], dtype: torch.dtype, threshold: float | None
) -> LayerSpeed:
    """Measure one layer on its inputs, from the smallest call to larger ones until one gains too little."""
    cutoff = 0.0 if threshold is None else observe.quantile(inputs, threshold)
    active, union = observe.active_fraction(inputs, cutoff), observe.unions(inputs, cutoff)
    sizes = sorted({len(x) for x in inputs})
    report = LayerSpeed(name, layer.in_features, layer.out_features, sizes[0], active, union, cutoff=cutoff)
    words = f"{100 * active:.0f} % active"
    if active > 1 / LEAST_SPEED:
        return replace(report, reason=f"{words}: too few zeros")
    trial = _Trial(timer, layer, dtype, cutoff)
    for size in dict.fromkeys([*sizes[:: -(-len(sizes) // _SIZES)], sizes[-1]]):
        cold, warm = trial.speeds([x for x in inputs if len(x) == size][:_CALLS])
        if min(cold, warm) >= LEAST_SPEED:
            report = replace(report, cold=cold, warm=warm, batch=size, max_batch=size)
        elif size == sizes[0]:
            reason = f"{words}, {min(cold, warm):.1f}x at batch {size}: left dense"
            return replace(report, cold=cold, warm=warm, reason=reason)
        else:
            return report
    largest, batch = max(inputs, key=len), sizes[-1]
    while batch < _LARGEST_TRIED and min(trial.speeds([observe.with_more_rows(largest, 2 * batch)])) >= LEAST_SPEED:
        batch *= 2
    return replace(report, max_batch=batch)


@dataclass
class _Trial:
    """A layer, a copy of it that skips zeros, and a timer."""

    timer: Timer
    layer: nn.Linear
    dtype: torch.dtype
    cutoff: float

    def __post_init__(self) -> None:
        self.skipping = convert(copy.deepcopy(self.layer), dtype=_held(self.layer, self.dtype), cutoff=self.cutoff)

    @torch.no_grad()
    def speeds(self, inputs: Sequence[Tensor]) -> tuple[float, float]:
        """Return how many times faster the layer is when it skips zeros, with cold and with warm weights."""
        full = [x.masked_fill(x.abs() <= self.cutoff, self.cutoff + 1) for x in inputs]
        contenders: dict[str, tuple[Callable[[Tensor], Any], Sequence[Tensor]]] = {
            "dense": (self.layer, inputs),
            "full": (self.skipping, full),
            "skipping": (self.skipping, inputs),
        }
        dense, without_zeros, skipping = self.timer.measure(contenders, _SECONDS).values()
        return min(dense.cold, without_zeros.cold) / skipping.cold, min(dense.warm, without_zeros.warm) / skipping.warm


def _held(layer: nn.Linear, dtype: torch.dtype) -> torch.dtype:
    return torch.bfloat16 if layer.weight.dtype == torch.bfloat16 else dtype


def _compare(timer: Timer, model: nn.Module, fast: nn.Module, run: observe.Run, example: Any, report: SkipReport) -> SkipReport:
    """Time the whole model several times, and report every layer as left dense if the lowest speed is no gain."""
    layers = {name: layer for name, layer in observe.linear_layers(model)[0].items() if name in report.replaced}
    # The timer copies a tensor before each call, which reads it into the cache, as whatever computed it would have.
    read = [example if isinstance(example, Tensor) else None]
    contenders: dict[str, tuple[Callable[[Any], Any], Sequence[Any]]] = {
        "before": (lambda _: run(model), read),
        "after": (lambda _: run(fast), read),
    }
    trials = [timer.measure(contenders, 4 * _SECONDS) for _ in range(_MODEL_TRIALS)]
    cold = min(trial["before"].cold / trial["after"].cold for trial in trials)
    warm = min(trial["before"].warm / trial["after"].warm for trial in trials)
    if min(cold, warm) < LEAST_MODEL_SPEED:
        reason = f"the whole model is {min(cold, warm):.2f}x as fast with it: left dense"
        kept = [layer if layer.reason else replace(layer, reason=reason, max_batch=None) for layer in report.layers]
        return replace(report, layers=tuple(kept))
    bounds = [1 / max(1 - share, 1e-3) for share in observe.time_shares(model, run, layers, timer.fill_cache)]  # Amdahl's law
    return replace(report, cold=cold, warm=warm, cold_bound=bounds[0], warm_bound=bounds[1])


def _apply(model: nn.Module, layers: Sequence[LayerSpeed], dtype: torch.dtype) -> None:
    """Convert the layers that the reports call replaced."""
    for each in layers:
        if each.replaced:
            layer = model.get_submodule(each.name)
            assert isinstance(layer, nn.Linear)
            convert(layer, dtype=_held(layer, dtype), cutoff=each.cutoff, max_batch=each.max_batch)
