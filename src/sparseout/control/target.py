"""`SparsityTarget`: adjust `q`, or another number, until a model has the sparsity that the user asks for."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn, SupportsFloat

from torch import nn

from sparseout.checks import check_choice, check_count, check_p
from sparseout.control import ownership
from sparseout.control.controller import Controller
from sparseout.control.input_probe import InputProbe, Measured
from sparseout.control.report import NO_ZEROS, LayerReport, Reporting, TargetReport
from sparseout.control.running_loss import RunningLoss
from sparseout.control.settings import (
    CONTROLLED_MEASURES,
    MEAN,
    Settings,
    Targets,
    check_bounds,
    check_layers,
    check_number_bounds,
    initial_p,
    resolve_targets,
)
from sparseout.control.state import State
from sparseout.dial import Dial
from sparseout.layers import Sparseout
from sparseout.metrics import TOLERANCE
from sparseout.probe.selection import Layers

EVALUATION_INTERVAL = 10  # samples from one evaluation to the next
EVALUATION_WEIGHT = 0.25  # of the newest evaluation in the bias


class SparsityTarget(Reporting):
    """Adjusts the `q` of Sparseout layers until `S(x) = target` for their clean inputs `x`. `Probe` defines `S`.

    Call `step()` after each optimizer step. Every `every`-th step is a sample: the layers are measured, and a controller for each
    layer moves its `q`, down for sparser activations and up for denser ones. `state_dict()` and `load_state_dict()` save and
    restore the controllers and the layers' `q`, and their `p` if it is controlled. In distributed training each process has a
    `SparsityTarget`; the measurements are pooled, so all processes set the same `q`.

    Any layer with a `dial` is controlled in the same way: `q` stands for the number that its dial names, such as the `strength`
    of a penalty or the `k` of `KWinners`. The layers of `sparseout.regularizers` have one, and so can a module of your own. `x`
    is then the output of the layer. If the output has noise in training, pass a `loader`.

    A layer has at most one `SparsityTarget`, until that one is stopped or deleted. The model can be saved and copied at any time:
    the copy keeps its current `q`, and is neither measured nor controlled. A `SparsityTarget` itself cannot be copied or pickled.

    Args:
        model: the module that the training loop calls. It holds the layers.
        target: a sparsity in (0, 1) for every layer; `(first, last)` for targets that change linearly from the first layer to the
            last; or a mapping from layer names or patterns to targets, which controls only these layers.
        measure: `"hoyer"`, `"zeros"` or `"gini"`.
        layers: the layers to control, as names, patterns, types or predicates: see `Probe`. Default: all that have a dial.
        mean: control the mean over the layers with a single `q`, instead of each layer with its own.
        bounds: bounds of `q`. Default: those of the layer's dial, which are `(0.3, 4.0)` for Sparseout.
        p: bounds of the `p` of Sparseout layers. While `q` is at a bound, `p` moves too: up for sparser activations, down for
            denser ones. Default: `p` stays constant.
        every: measure every N-th step, starting with the first.
        warmup: number of initial steps in which the layers are Dropout, with `q = 2`; other layers have the number at which they
            act least.
        ramp: number of steps after the warm-up in which the setpoint moves linearly from the measured sparsity to the target.
        loader: batches for occasional evaluations, so that the sparsity without noise reaches the target. Each evaluation uses
            the first batches that hold at least as many vectors as a training step.
        forward: function that calls the model on a batch of `loader`. Default: `sparseout.batches.arguments` reads the batch. It
            leaves out the labels of `(inputs, labels)`, and passes both items of `(first, second)` to a model with two inputs.

    Attributes:
        layers: names of the controlled layers, in the order of registration.
        steps: number of steps so far.
        every: number of steps per sample.

    Raises:
        TypeError, ValueError: an argument is invalid, `layers` selects no layer with a dial, a layer is controlled already,
            or a layer has `gradient="exact"`, under which sparsity is not monotonic in `q`.

    Warns:
        UserWarning: no layer ran before the first step; `measure="zeros"`, but a layer has no zeros; or a target is out of reach.

    >>> import torch, torch.nn.functional as F
    >>> from sparseout import Sparseout
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), Sparseout(p=0.5), nn.Linear(32, 16))
    >>> optimizer, data = torch.optim.Adam(model.parameters(), 0.01), torch.rand(512, 16)
    >>> target = SparsityTarget(model, 0.5)
    >>> for step in range(800):
    ...     loss = F.mse_loss(model(data[step % 8 :: 8]), data[step % 8 :: 8])
    ...     optimizer.zero_grad(); loss.backward(); optimizer.step()
    ...     target.step()
    >>> abs(target.report()["2"].measured - 0.5) < 0.02
    True
    """

    def __init__(
        self,
        model: nn.Module,
        target: Targets,
        *,
        measure: str = "hoyer",
        layers: Layers = None,
        mean: bool = False,
        bounds: tuple[float, float] | None = None,
        p: tuple[float, float] | None = None,
        every: int = 8,
        warmup: int = 0,
        ramp: int = 0,
        loader: Iterable[Any] | None = None,
        forward: Callable[[Any], Any] | None = None,
    ) -> None:
        check_choice("measure", measure, CONTROLLED_MEASURES)
        self._inputs = InputProbe(model, layers, measure, loader, forward)
        check_layers(self._inputs.layers, bool(mean), p is not None)
        self._settings = Settings(
            measure=measure,
            mean=bool(mean),
            bounds=check_number_bounds(bounds, self._inputs.layers),
            p=None if p is None else check_bounds("p", p, check_p),
            every=check_count("every", every, 1),
            warmup=check_count("warmup", warmup, 0),
            ramp=check_count("ramp", ramp, 0),
        )
        self.every, self.steps = every, 0
        self._requested = resolve_targets(target, list(self._inputs.layers), mean)
        self._targets = dict(self._requested)
        self._modules = {name: module for name, module in self._inputs.layers.items() if mean or name in self._targets}
        self.layers = tuple(self._modules)
        self._initial_p = initial_p(self._modules, self._settings.p)
        self._controllers = {name: self._new_controller(name) for name in self._targets}
        self._bias = dict.fromkeys(self._targets, 0.0)
        self._ramp_start: dict[str, float] = {}
        self._rms: dict[str, float] = {}
        self._warned: set[str] = set()
        self._loss = RunningLoss()
        ownership.claim(self._modules, self)
        self._take_control()

    @property
    def target(self) -> dict[str, float]:
        """The current target of each layer, or of the mean. It can be set, in any form of the `target` argument."""
        return dict(self._targets)

    @target.setter
    def target(self, target: Targets) -> None:
        targets = resolve_targets(target, list(self._modules), self._settings.mean)
        if set(targets) != set(self._targets):
            raise ValueError(f"target must name the controlled layers, {', '.join(self._targets)}, got {', '.join(targets)}")
        self._warned -= {name for name in targets if targets[name] != self._targets[name]}
        self._targets = targets

    def step(self, loss: SupportsFloat | None = None) -> None:
        """Count an optimizer step; in every `every`-th step, update the controllers and set `q`.

        Args:
            loss: training loss of this step, a number or tensor, for the report. That of every `every`-th step is read.
        """
        if self._stopped:
            return
        if self.steps % self.every == 0:
            if loss is not None:
                self.read_loss(loss)
            self._update(*self._inputs.take())
        self.steps += 1
        if self.steps % self.every == 0:
            self._inputs.start()

    def read_loss(self, loss: SupportsFloat) -> None:
        """Add a training loss to the report, in a loop that does not know the loss of each step; otherwise pass it to `step`."""
        self._loss.read(loss, self.steps, in_warmup=self.steps <= self._settings.warmup and self._settings.warmup > 0)

    def stop(self) -> None:
        """Stop measuring and controlling. The layers keep their `q`, and `step` does nothing from now on.

        Another `SparsityTarget` can then control the layers. `load_state_dict` starts this one again.
        """
        self._stopped = True
        self._inputs.stop()
        ownership.release(self._modules, self)

    def report(self) -> TargetReport:
        """Return the target, the measured sparsity and the `q` of each layer, and whether the target is out of reach."""
        return TargetReport(tuple(self._layer_report(name) for name in self._targets), dataclasses.replace(self._loss))

    def state_dict(self) -> dict[str, Any]:
        """Return everything that `step` changes, as data that JSON can hold. Call it after `step()`."""
        return State(
            settings=self._settings,
            requested=self._requested,
            targets=self._targets,
            steps=self.steps,
            controllers=self._controllers,
            bias=self._bias,
            ramp_start=self._ramp_start,
            rms=self._rms,
            warned=self._warned,
            loss=self._loss,
        ).to_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Resume from the state of a `SparsityTarget` of the same layers, with the same numbers as without the interruption.

        It restores the layers' `q`, and their `p` if it is controlled. Arguments override saved values. A target that was set
        during training is restored if the `target` argument equals the saved one. If the bounds of `q` and `p` differ, the saved
        values are clipped to the new bounds.

        Raises:
            ValueError: `state_dict` is not the state of a `SparsityTarget` of these layers and this `measure`, or another
                `SparsityTarget` controls a layer. Nothing changes in this case.

        Warns:
            UserWarning: an argument differs from its saved value. The message has both.
        """
        state = State.read(state_dict, {name: self._module(name).dial for name in self._targets})
        new, old = self._settings, state.settings
        for name in ("measure", "mean"):
            if getattr(new, name) != getattr(old, name):
                raise ValueError(f"state_dict must have {name}={getattr(new, name)!r}, got {name}={getattr(old, name)!r}")
        own = {k: v for k, v in self._requested.items() if v not in (state.requested[k], state.targets[k])}
        differences = [f"target={own} (saved: { ({k: state.targets[k] for k in own}) })"] if own else []
        differences += new.differences(old)
        if differences:
            warnings.warn(f"this SparsityTarget continues with its own {', '.join(differences)}", stacklevel=2)
        ownership.claim(self._modules, self)
        self.steps, self._controllers, self._bias = state.steps, state.controllers, state.bias
        self._targets = state.targets | own
        self._ramp_start, self._rms, self._warned = state.ramp_start, state.rms, state.warned - set(own)
        self._loss = state.loss
        if new != old:
            for name, controller in self._controllers.items():
                dial = self._module(name).dial
                controller.output = new.convert_output(controller.output, old, dial)
                controller.low, controller.high = new.output_bounds(dial)
        self._take_control()

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(
            "a SparsityTarget cannot be copied or pickled: keep it outside of the model, save its state_dict(), and create "
            "a new one for a copy of the model"
        )

    def _take_control(self) -> None:
        """Apply the controllers' outputs, and start measuring if the next step is a sample."""
        self._stopped = False
        self._apply_outputs()
        self._inputs.stop()
        if self.steps % self.every == 0:
            self._inputs.start()

    def _update(self, measured: Measured, vectors: int) -> None:
        """Update the controllers with the measurements of a training step, which had `vectors` vectors a layer."""
        self._warn_of_no_measurement(measured)
        values = self._controlled(measured, self._settings.measure)
        self._rms |= {name: rms for name, rms in self._controlled(measured, "rms").items() if math.isfinite(rms)}
        evaluates = self._inputs.has_loader and self.steps // self.every % EVALUATION_INTERVAL == 0
        evaluation = self._inputs.evaluate(self._modules, vectors) if evaluates else {}
        evaluated = self._controlled(evaluation, self._settings.measure)
        for name, controller in self._controllers.items():
            value = values.get(name)
            if not controller.observe(None if value is None else value + self._bias[name]):
                continue
            if math.isfinite(evaluated.get(name, math.nan)):
                change = (EVALUATION_WEIGHT if self.steps else 1.0) * (evaluated[name] - controller.lag_corrected)
                self._bias[name] += change
                controller.shift(change)
            if self.steps >= self._settings.warmup:
                controller.update(self._setpoint(name))
                if self.steps >= self._settings.warmup + self._settings.ramp:
                    self._warn_if_out_of_reach(name)
        self._apply_outputs()

    def _setpoint(self, name: str) -> float:
        """Return the setpoint of the current step."""
        start = self._ramp_start.setdefault(name, self._controllers[name].smoothed)
        warmup, ramp = self._settings.warmup, self._settings.ramp
        done = min(1.0, (self.steps - warmup) / ramp) if ramp else 1.0
        return start + (self._targets[name] - start) * done

    def _controlled(self, measured: Measured, measure: str) -> dict[str, float]:
        """Return one measure of each controlled layer that ran, or its mean over these layers."""
        values = {name: each[measure] for name, each in measured.items() if name in self._modules}
        return {MEAN: sum(values.values()) / len(values)} if self._settings.mean and values else values

    def _warn_of_no_measurement(self, measured: Measured) -> None:
        """Warn at the first sample if no layer ran, and at the first sample of each layer if it has no zeros to control."""
        if not measured and not self.steps:
            warnings.warn(
                "no controlled layer ran in training mode before the first step(): call the model that was given to "
                "SparsityTarget, in training mode, and create SparsityTarget after the model is compiled",
                stacklevel=4,
            )
        for name in self._modules if self._settings.measure == "zeros" else ():
            new = not self._controllers[MEAN if self._settings.mean else name].samples
            if new and name in measured and measured[name]["zeros"] <= NO_ZEROS:
                warnings.warn(
                    f"the fraction of zeros in {name or 'the model'} is {measured[name]['zeros']:.2g}: use measure='hoyer' for "
                    "activations that are never exactly 0, as after Tanh, GELU or SiLU",
                    stacklevel=4,
                )

    def _new_controller(self, name: str) -> Controller:
        """Return a controller that starts at the layer's own number, or in a warm-up at the neutral one."""
        module = self._module(name)
        dial: Dial = module.dial
        low, high = self._settings.number_bounds(dial)
        number = dial.warmup_value if self._settings.warmup else getattr(module, dial.name)
        position = dial.position(min(max(number, low), high))
        return Controller(position, *self._settings.output_bounds(dial), dial.idles)

    def _module(self, name: str) -> Any:
        """Return the layer of that name. For the mean, return the first layer, because all layers have the same number."""
        return next(iter(self._modules.values())) if self._settings.mean else self._modules[name]

    def _apply_outputs(self) -> None:
        for name, module in self._modules.items():
            output = self._controllers[MEAN if self._settings.mean else name].output
            self._settings.apply(module, output, self._initial_p.get(name))

    def _warn_if_out_of_reach(self, name: str) -> None:
        if name in self._warned or not self._controllers[name].at_bound:
            return
        report = self._layer_report(name)
        if report.out_of_reach:
            self._warned.add(name)
            warnings.warn(str(report), stacklevel=4)

    def _layer_report(self, name: str) -> LayerReport:
        controller, target = self._controllers[name], self._targets[name]
        module = self._module(name)
        return LayerReport(
            layer=name,
            label="the mean" if self._settings.mean else name or "the model",
            measure=self._settings.measure,
            target=target,
            measured=controller.measured,
            name=module.dial.name,
            value=float(getattr(module, module.dial.name)),
            p=getattr(module, "p", None) if isinstance(module, Sparseout) else None,
            out_of_reach=controller.is_stalled(target) and abs(target - controller.measured) > TOLERANCE,
            responds=controller.responds,
            bounds=self._settings.number_bounds(module.dial),
            at_bound=controller.at_bound > 0,
            rms=self._rms.get(name, math.nan),
            scale=module.scale if isinstance(module, Sparseout) else None,
            p_bounds=self._settings.p,
        )
