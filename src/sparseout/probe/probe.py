"""The probe: hooks that sum up a model's activations while it runs."""

from __future__ import annotations

import contextlib
import datetime
import platform
import threading
import weakref
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import distributed, nn

import sparseout
from sparseout.function_calls import ACTIVATIONS, DROPOUTS, FunctionCalls
from sparseout.probe.excitations import SampleCounter
from sparseout.probe.findings import Findings
from sparseout.probe.history import append_history
from sparseout.probe.hooks import EAGER, UNFUSED, Hook
from sparseout.probe.masks import MaskStack
from sparseout.probe.measures import check_settings, extra_sums
from sparseout.probe.selection import Layer, Layers, UnitDim, is_activation_or_dropout, is_default, select_layers
from sparseout.probe.tally import Tallier
from sparseout.probe.tensor_parallel import RECORDING_PLACEMENTS, TensorParallel
from sparseout.probe.values import UnreadableError
from sparseout.records import tables
from sparseout.records.probe_summary import ProbeSettings, Summary
from sparseout.torch_internals import is_in_backward_pass, is_running, uncompiled, without_dispatch_modes


class Probe:
    """Measure `S(x) = mean of s(x_v)` over the vectors `x_v` of each layer's activations `x`, while the model runs.

    A *vector* is the units of one sample: the last dimension, or the channels at one position in a convolution. For a Dropout or
    Sparseout layer, `x` is the clean input; for any other layer, it is the output. Each batch is reduced to sums as it passes, so
    no activation is kept and memory does not grow. Training and evaluation are counted separately.

    Use the probe as a context manager, or call `start` and `stop`. Contexts nest, and several probes may watch one model. The
    hooks are removed when the context ends, when the model or a hook raises, and when the probe is deleted.

    Args:
        model: any module. A compiled model runs eagerly while it is probed, because compiled code ignores new hooks.
        layers: the layers to measure: names or patterns such as `"encoder.*.act"`, types, predicates of `(name, module)`, or a
            list of these. Default: activation functions, Sparseout and Dropout layers, and recurrent layers.
        measures: `"basic"` (`zeros`, `hoyer` and `rms`), `"all"`, or names out of `sparseout.probe.MEASURE_TITLES`.
        thresholds: positive magnitudes `t` for the fraction of `|x| < t` and, with a histogram, the fraction of `|x| < t RMS`.
            Default: (1e-3, 1e-2, 1e-1) with `"all"`, otherwise none.
        histogram: whether to count magnitudes in bins, eight per octave. Default: True with `"all"`, otherwise False.
        unit_dim: the dimensions that hold the units of a vector, for all layers, or a mapping by name or pattern. Several
            dimensions are flattened into one. Default: -1, or the channels of a module that belongs to a convolution.
        every: measure every `every`-th forward pass, starting with the first.
        calls: count the calls of a layer within one forward pass `"together"` or `"apart"`.
        samples: how many of the samples that excite a unit most to remember. A record has those of the units that fire least and
            most often. Default: 0, as it takes another pass over the activations.

    Attributes:
        layers: the selected layers, which printing the probe lists.
        settings: the measures taken, and how often.

    Raises:
        ValueError, TypeError: an argument is out of range, or names a module or measure that does not exist.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2))
    >>> with Probe(model, measures=["zeros", "hoyer", "dead"]) as probe:
    ...     _ = model(torch.eye(4))
    >>> probe
    Probe of Sequential: zeros, hoyer, dead
    layer  type     of           units along
    1      ReLU     output       last dimension
    2      Dropout  clean input  last dimension
    >>> record = probe.summary()["1"]
    >>> record.units, record.vectors, record.zeros == (model[1](model[0](torch.eye(4))) == 0).float().mean().item()
    (8, 4, True)
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Layers = None,
        *,
        measures: str | Iterable[str] = "basic",
        thresholds: Iterable[float] | None = None,
        histogram: bool | None = None,
        unit_dim: UnitDim | Mapping[str, UnitDim] | None = None,
        every: int = 1,
        calls: Literal["together", "apart"] = "together",
        samples: int = 0,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        self.settings: ProbeSettings = check_settings(measures, thresholds, histogram, every, calls, samples)
        self._compiled = any(uncompiled(m) is not m for m in model.modules())
        self._model = uncompiled(model)
        self.layers = select_layers(self._model, layers, unit_dim)
        self._masks, self._tensor_parallel = MaskStack(), TensorParallel(self._model)
        self._samples = SampleCounter(self.settings.samples)
        self._tallier = Tallier(extra_sums(self.settings), self._masks, self._tensor_parallel, self._samples)
        self._starts = self._depth = self._thread = 0
        self._measuring = True
        self._calls: Counter[str] = Counter()
        self._calls_outside: Counter[str] = Counter()  # calls of layers outside a forward pass of the model
        self._watcher: FunctionCalls | None = None
        self._watched_modes: set[str] = set()
        self._findings, self._duplicates = Findings(), Findings()  # the duplicates are counted by another rank too
        # Hooks hold the probe weakly, so that deleting it removes them. The model's hooks stay until a running forward pass ends.
        self._layer_hooks, self._model_hooks = contextlib.ExitStack(), contextlib.ExitStack()
        for hooks in (self._layer_hooks, self._model_hooks):
            weakref.finalize(self, hooks.close)

    def start(self) -> Probe:
        """Start measuring. Each `start` needs a `stop`."""
        self._starts += 1
        if self._starts == 1:
            self._attach()
        return self

    def stop(self) -> None:
        """Undo the last `start`, and keep the findings. Does nothing if the probe is not started."""
        self._starts = max(0, self._starts - 1)
        if not self._starts:
            self._detach()
            if self._depth and self._thread == threading.get_ident() and not is_running(self._model):
                self._depth = 1  # a BaseException ended the forward pass, which skips the hooks
                self._leave(self._model)

    __enter__ = start

    def __exit__(self, *_: object) -> None:
        self.stop()

    def reset(self) -> None:
        """Discard the measurements. The functions that the model calls are kept, as they are looked for only once."""
        self._findings, self._duplicates, before = Findings(), Findings(), self._findings
        self._findings.functional = before.functional
        self._samples.reset()

    def summary(self) -> Summary:
        """Return the summary of this process, which includes the full values of tensor-parallel layers on every rank."""
        if not self._duplicates.forwards and not self._duplicates.tallies:
            return self._summary(self._findings)
        total = Findings()
        total.add(self._findings)
        total.add(self._duplicates)
        return self._summary(total)

    def gather(self) -> Summary:
        """Return the summary of all ranks. With `torch.distributed`, every rank must call it.

        Values that the ranks of a tensor-parallel mesh share are counted once; values of data-parallel ranks are added up.
        """
        return self._summary(self.findings())

    def findings(self) -> Findings:
        """Return the sums behind `gather()`, which is faster than a summary."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return self._findings
        parts: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(parts, self._findings.cpu())
        total = Findings()
        for part in parts:
            total.add(part)
        return total

    def log(self, step: int, path: str | Path = "probe.jsonl") -> Summary:
        """Append the measures since the last `log` to `path` as a line of JSON, then reset.

        With `torch.distributed`, every rank must call it, and rank 0 writes the measures of all ranks.
        """
        summary = self.gather()
        if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0:
            append_history(Path(path), step, summary)
        self.reset()
        return summary

    def __repr__(self) -> str:
        settings = self.settings
        sampling = f", one forward pass in {settings.every}" if settings.every > 1 else ""
        head = f"Probe of {type(self._model).__name__}: {', '.join(settings.measures)}{sampling}"
        rows = [[layer.name or "(model)", type(layer.module).__name__, layer.value, layer.units] for layer in self.layers]
        return f"{head}\n{tables.plain_table(['layer', 'type', 'of', 'units along'], rows, left=4)}"

    def _summary(self, findings: Findings) -> Summary:
        device = next((str(p.device.type) for p in self._model.parameters()), "cpu")
        return Summary(
            model=type(self._model).__name__,
            layers=findings.records(self.layers, self.settings),
            unseen=findings.unseen(self.layers),
            settings=self.settings,
            forwards={mode: {"seen": seen, "measured": findings.measured[mode]} for mode, seen in findings.forwards.items()},
            provenance={
                "sparseout": sparseout.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
                "device": device,
                "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            },
        )

    def _attach(self) -> None:
        """Register the hooks."""
        self._depth = 0
        model, inner, outer = self._model, self._layer_hooks, self._model_hooks
        if self._compiled or any(module._compiled_call_impl is not None for module in model.modules()):
            outer.enter_context(EAGER)
        if any(isinstance(module, (nn.TransformerEncoderLayer, nn.MultiheadAttention)) for module in model.modules()):
            outer.enter_context(UNFUSED)
        if self._tensor_parallel.active:
            outer.enter_context(RECORDING_PLACEMENTS)
        outer.callback(model.register_forward_pre_hook(Hook(self._enter), with_kwargs=True).remove)
        for module in model.modules() if self._tensor_parallel.active else ():
            if is_activation_or_dropout(module):
                inner.callback(self._tensor_parallel.hook(module).remove)
        for layer in self.layers:
            observe = Hook(self._observe, layer, traced=self._traced)
            if layer.value == "output":
                handle = layer.module.register_forward_hook(observe)
            else:
                handle = layer.module.register_forward_pre_hook(observe, with_kwargs=True)
            inner.callback(handle.remove)
        for name, module in model.named_modules():
            for handle in self._masks.hook(name, module):
                inner.callback(handle.remove)
        outer.callback(model.register_forward_hook(Hook(self._leave), always_call=True).remove)

    def _detach(self) -> None:
        if self._starts:
            return
        self._layer_hooks.close()
        if not self._depth:  # otherwise `_leave` does it
            self._model_hooks.close()

    def _enter(self, model: nn.Module, args: Any, kwargs: Any) -> None:
        """Start a forward pass of the model."""
        if model is not self._model:
            self._findings.copy_ran = True
            return
        if is_in_backward_pass():
            return
        self._depth += 1
        if self._depth > 1:
            return
        findings, mode = self._findings, _mode(self._model)
        self._thread = threading.get_ident()
        self._masks.clear()
        self._calls.clear()
        self._samples.enter(args, kwargs)
        seen = findings.forwards[mode] + self._duplicates.forwards[mode]
        self._measuring = seen % self.settings.every == 0
        if mode not in self._watched_modes:
            self._watched_modes.add(mode)
            self._watcher = _function_watcher(self._model, findings.functional)
            self._watcher.__enter__()
        findings = self._duplicates if self._tensor_parallel.counted_elsewhere else findings
        findings.forwards[mode] += 1
        findings.measured[mode] += self._measuring

    def _leave(self, model: nn.Module, *_: Any) -> None:
        """End a forward pass of the model, also if it raised."""
        if model is not self._model or is_in_backward_pass() or not self._depth:
            return
        self._depth -= 1
        if self._depth:
            return
        self._samples.leave()
        if self._watcher:
            self._watcher.__exit__(None, None, None)
            self._watcher = None
        self._detach()

    def _observe(self, layer: Layer, module: nn.Module, args: Any, value: Any) -> None:
        """Measure a call of a layer. `value` is its output or, if its input is measured, its keyword arguments."""
        if module is not layer.module or is_in_backward_pass() or not self._is_sampled(layer):
            return
        if layer.value == "clean input":
            value = args or tuple(value.values())
        try:
            with without_dispatch_modes():
                self._add_call(layer, value)
        except Exception as error:
            self._starts = 0
            self._detach()
            raise RuntimeError(f"probing {layer.name or 'the model'} ({type(module).__name__}) failed: {error}") from error

    def _traced(self, layer: Layer) -> None:
        """Note that a layer was compiled or exported, so that its hooks do not run."""
        self._findings.unmeasurable[layer.name] = (
            f"its {layer.value} was computed by compiled or exported code, which calls no hooks"
        )
        self._compiled = True

    def _is_sampled(self, layer: Layer) -> bool:
        """Return whether to measure this call. A layer that is called outside the model counts its own calls."""
        if self._depth:
            return self._measuring
        self._calls_outside[layer.name] += 1
        return (self._calls_outside[layer.name] - 1) % self.settings.every == 0

    def _add_call(self, layer: Layer, value: Any) -> None:
        """Add the tally of one call to the findings."""
        call = None
        if self.settings.calls == "apart":
            self._calls[layer.name] += 1
            call = self._calls[layer.name] if self._depth else 1
        try:
            tally, duplicate = self._tallier.tally(layer, value)
        except UnreadableError as error:
            self._findings.unmeasurable[layer.name] = f"its {layer.value} {error}"
            return
        findings = self._duplicates if duplicate else self._findings
        findings.tallies[layer.name, _mode(layer.module), call].add(tally)


def _function_watcher(model: nn.Module, found: dict[str, set[str]]) -> FunctionCalls:
    """Return a context that adds to `found`, by module, the activations and dropouts that modules call as functions."""
    names = {module: name for name, module in model.named_modules()}

    def seen(module: nn.Module, function: str, *_: Any) -> None:
        if not is_default(module):
            found[names[module]].add(function)

    return FunctionCalls(ACTIVATIONS | DROPOUTS.keys(), names, seen)


def _mode(module: nn.Module) -> str:
    return "train" if module.training else "eval"
