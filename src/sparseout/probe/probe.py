"""The probe: hooks that take the sums of a model's activations while it runs."""

from __future__ import annotations

import contextlib
import datetime
import platform
import sys
import threading
import weakref
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn

import sparseout
from sparseout.function_calls import ACTIVATIONS, DROPOUTS, FunctionCalls
from sparseout.probe import history
from sparseout.probe.findings import Findings
from sparseout.probe.hook import Hook
from sparseout.probe.mask_stack import MaskStack
from sparseout.probe.measures import Calls, Settings
from sparseout.probe.readable import UnreadableError, without_modes
from sparseout.probe.records import Summary
from sparseout.probe.selection import Layer, Layers, UnitDim, choose, is_activation_or_dropout, is_default
from sparseout.probe.shards import NOTING_PARTS, Shards
from sparseout.probe.shared import EAGER, UNFUSED
from sparseout.probe.taking import Taker
from sparseout.records import tables


class Probe:
    """Measures `S(x) = mean of s(x_v)` over the vectors `x_v` of each chosen layer's activations `x`, while the model runs.

    A *vector* is the units of one sample: the last dimension, or the channels of a position in a convolution. A Dropout's or
    Sparseout's `x` is its clean input, any other layer's is its output. Each batch is reduced to sums as it passes, so memory
    does not grow and no activation is kept; training and evaluation are counted apart.

    Use it as a context, or with `start` and `stop`. Contexts nest, and several probes may watch one model. The hooks come off
    when it ends, when the model or a hook raises, and when the probe is deleted.

    Args:
        model: any module. One that was compiled runs eagerly while it is probed, as compiled code ignores new hooks.
        layers: what to measure: names or patterns such as `"encoder.*.act"`, types, predicates of `(name, module)`, or several of
            these. Default: activation functions, Sparseout and Dropout layers, and recurrent layers.
        measures: `"basic"` (`zeros`, `hoyer` and `rms`), `"all"`, or names out of `sparseout.probe.MEASURES`.
        thresholds: magnitudes `t`, positive, for the fractions of `|x| < t`, and of `|x| < t RMS` where there is a histogram.
            Default: (1e-3, 1e-2, 1e-1) with `"all"`, otherwise none.
        histogram: count magnitudes in bins, eight an octave. Default: with `"all"`.
        unit_dim: dimensions that hold the units of a vector, for all layers, or by name or pattern; several are taken as one.
            Default: -1, or the channels of a module that belongs to a convolution.
        every: measure one forward pass in so many; the first is one.
        calls: count several calls of a layer in one forward pass `"together"` or `"apart"`.

    Attributes:
        layers: what was chosen. Printing the probe lists it.
        settings: what is measured.

    Raises:
        ValueError, TypeError: an argument is out of its range, or names what the model does not have.

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
        calls: Calls = "together",
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        self.settings = Settings.of(measures, thresholds, histogram, every, calls)
        self._compiled = any(hasattr(m, "_orig_mod") for m in model.modules())
        self._model: nn.Module = getattr(model, "_orig_mod", model)
        self.layers = choose(self._model, layers, unit_dim)
        self._masks, self._shards = MaskStack(), Shards(self._model)
        self._taker = Taker(self.settings.parts, self._masks, self._shards)
        self._starts = self._depth = self._thread = 0
        self._measuring = True
        self._calls: Counter[str] = Counter()
        self._outside: Counter[str] = Counter()
        self._watcher: FunctionCalls | None = None
        self._scanned: set[str] = set()
        self._findings, self._elsewhere = Findings(), Findings()  # the second: what another rank counts too
        # No hook holds the probe, so that deleting it ends them: those of the layers, and those of the model, which may go later.
        self._layer_hooks, self._model_hooks = contextlib.ExitStack(), contextlib.ExitStack()
        for hooks in (self._layer_hooks, self._model_hooks):
            weakref.finalize(self, hooks.close)

    def start(self) -> Probe:
        """Begin to measure; each `start` needs a `stop`."""
        self._starts += 1
        if self._starts == 1:
            self._attach()
        return self

    def stop(self) -> None:
        """End what the last `start` began; the findings stay. Does nothing where none is open."""
        self._starts = max(0, self._starts - 1)
        if not self._starts:
            self._detach()
            if self._depth and self._thread == threading.get_ident() and not _is_running(self._model):
                self._depth = 1  # a forward pass was left by what is no Exception, so that no hook ran
                self._leave(self._model)

    __enter__ = start

    def __exit__(self, *_: object) -> None:
        self.stop()

    def reset(self) -> None:
        """Forget what was measured; which functions the model calls stays known."""
        self._findings, self._elsewhere, before = Findings(), Findings(), self._findings
        self._findings.functional = before.functional

    def summary(self) -> Summary:
        """What was found so far, in this process: of a tensor-parallel value all of it, as every rank of its mesh finds it."""
        if not self._elsewhere.forwards and not self._elsewhere.tallies:
            return self._summary(self._findings)
        total = Findings()
        total.add(self._findings)
        total.add(self._elsewhere)
        return self._summary(total)

    def gather(self) -> Summary:
        """What all ranks found so far, together: where `torch.distributed` is in use, every rank calls this.

        What the ranks of a tensor-parallel mesh have in common is counted once, and what data-parallel ranks found is added up.
        """
        return self._summary(self.findings())

    def findings(self) -> Findings:
        """The sums behind `gather()`, without the rest of a summary, which takes longer."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return self._findings
        parts: list[Any] = [None] * distributed.get_world_size()
        distributed.all_gather_object(parts, self._findings.cpu())
        total = Findings()
        for part in parts:
            total.add(part)
        return total

    def log(self, step: int, path: str | Path = "probe.jsonl") -> Summary:
        """Append what was found since the last `log` to `path`, a line of JSON, and begin anew.

        With `torch.distributed`, every rank calls it, and the first writes what all found.
        """
        summary = self.gather()
        if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0:
            history.append(Path(path), step, summary)
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
        """Set the hooks."""
        self._depth = 0
        model, inner, outer = self._model, self._layer_hooks, self._model_hooks
        if self._compiled or any(module._compiled_call_impl is not None for module in model.modules()):
            outer.enter_context(EAGER)
        if any(isinstance(module, (nn.TransformerEncoderLayer, nn.MultiheadAttention)) for module in model.modules()):
            outer.enter_context(UNFUSED)
        if self._shards.active:
            outer.enter_context(NOTING_PARTS)
        outer.callback(model.register_forward_pre_hook(Hook(self._enter)).remove)
        for module in model.modules() if self._shards.active else ():
            if is_activation_or_dropout(module):
                inner.callback(self._shards.hook(module).remove)
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
        if not self._depth:  # otherwise at the end of the forward pass that runs
            self._model_hooks.close()

    def _enter(self, model: nn.Module, *_: Any) -> None:
        """A forward pass of the model begins."""
        if model is not self._model:
            self._findings.elsewhere[""] = "a copy of the model ran, which is not measured: make a Probe of the copy"
            return
        if _in_backward():
            return
        self._depth += 1
        if self._depth > 1:
            return
        findings, mode = self._findings, _mode(self._model)
        self._thread = threading.get_ident()
        self._masks.clear()
        self._calls.clear()
        seen = findings.forwards[mode] + self._elsewhere.forwards[mode]
        self._measuring = seen % self.settings.every == 0
        if mode not in self._scanned:
            self._scanned.add(mode)
            self._watcher = _function_watcher(self._model, findings.functional)
            self._watcher.__enter__()
        findings = self._elsewhere if self._shards.counted_elsewhere else findings
        findings.forwards[mode] += 1
        findings.measured[mode] += self._measuring

    def _leave(self, model: nn.Module, *_: Any) -> None:
        """It ends, or raises."""
        if model is not self._model or _in_backward() or not self._depth:
            return
        self._depth -= 1
        if self._depth:
            return
        if self._watcher:
            self._watcher.__exit__(None, None, None)
            self._watcher = None
        self._detach()

    def _observe(self, layer: Layer, module: nn.Module, args: Any, value: Any) -> None:
        """A layer was called: `value` is its output, or its keyword arguments where its input is measured."""
        if module is not layer.module or _in_backward() or not self._is_sampled(layer):
            return
        if layer.value == "clean input":
            value = args or tuple(value.values())
        try:
            with without_modes():
                self._take(layer, value)
        except Exception as error:
            self._starts = 0
            self._detach()
            raise RuntimeError(f"probing {layer.name or 'the model'} ({type(module).__name__}) failed: {error}") from error

    def _traced(self, layer: Layer) -> None:
        """A layer was compiled or exported."""
        self._findings.unmeasurable[layer.name] = (
            f"its {layer.value} was computed by compiled or exported code, which calls no hooks"
        )
        self._compiled = True

    def _is_sampled(self, layer: Layer) -> bool:
        """Whether this forward pass is measured; a part of the model that is called by itself counts its own calls."""
        if self._depth:
            return self._measuring
        self._outside[layer.name] += 1
        return (self._outside[layer.name] - 1) % self.settings.every == 0

    def _take(self, layer: Layer, value: Any) -> None:
        """Add one call's sums to the layer's."""
        call = None
        if self.settings.calls == "apart":
            self._calls[layer.name] += 1
            call = self._calls[layer.name] if self._depth else 1
        try:
            tally, elsewhere = self._taker.take(layer, value)
        except UnreadableError as error:
            self._findings.unmeasurable[layer.name] = f"its {layer.value} {error}"
            return
        findings = self._elsewhere if elsewhere else self._findings
        findings.tallies[layer.name, _mode(layer.module), call].add(tally)


def _function_watcher(model: nn.Module, found: dict[str, set[str]]) -> FunctionCalls:
    """Return a context that adds to `found`, by module, the activations and dropouts that modules call as functions."""
    names = {module: name for name, module in model.named_modules()}

    def seen(module: nn.Module, function: str, *_: Any) -> None:
        if not is_default(module):
            found[names[module]].add(function)

    return FunctionCalls(ACTIVATIONS | DROPOUTS.keys(), names, seen)


def _in_backward() -> bool:
    """Whether a checkpoint runs its part of the forward pass again."""
    return torch._C._current_graph_task_id() != -1


def _is_running(model: nn.Module) -> bool:
    """Whether this is called from within a call of the model."""
    frame = sys._getframe(1)
    while (frame := frame.f_back) is not None:  # type: ignore[assignment]
        if frame.f_code is nn.Module._call_impl.__code__ and frame.f_locals.get("self") is model:
            return True
    return False


def _mode(module: nn.Module) -> str:
    return "train" if module.training else "eval"
