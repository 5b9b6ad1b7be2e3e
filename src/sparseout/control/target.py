"""Drive the Sparseout layers of a model to a desired sparsity."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

from torch import nn

from sparseout.checks import check_choice, check_count, check_p, check_q
from sparseout.control import drivers
from sparseout.control.controller import Controller
from sparseout.control.goals import MEAN, MEASURES, Settings, Targets, check_bounds, check_layers, resolve
from sparseout.control.inputs import Found, Inputs
from sparseout.control.report import NO_ZEROS, LayerReport, TargetReport
from sparseout.control.state import State
from sparseout.metrics import TOLERANCE
from sparseout.probe.selection import Layers

EVALUATE = 10  # samples between two evaluations
WEIGHT = 0.25  # of the newest evaluation in the difference between evaluation and training
LONGEST = 100  # samples against a bound, at least, before that is worth a warning


class SparsityTarget:
    """Moves the `q` of Sparseout layers until `S(x) = target` for their clean inputs `x`; see `Probe` for `S`.

    Call `step()` after each step of the optimizer. In one step of `every` the layers' inputs are measured, and a controller of
    each layer moves its `q`: down where the activations are to be sparser, up where they are to be denser. `state_dict()` and
    `load_state_dict()` save and restore it, with the layers' `q`, and `p` where it is driven. Where several processes train, each
    has a `SparsityTarget`, all measure together, and all set the same `q`.

    A layer has one `SparsityTarget` at a time, until that is stopped or deleted. The model may be saved and copied meanwhile: a
    copy keeps the `q` that it has, and nobody measures or drives it. A `SparsityTarget` itself is neither copied nor pickled.

    Args:
        model: holds the Sparseout layers; the module that training calls.
        target: in (0, 1): one for each layer, or `(first, last)` for targets that change evenly along the layers, or a mapping
            from names or patterns to targets, which drives these layers alone.
        measure: `"hoyer"`, `"zeros"` or `"gini"`.
        layers: which Sparseout layers: names, patterns, types or predicates, as a `Probe` takes them. Default: all.
        mean: drive the mean over the layers to one target, by one `q` for all.
        q: the bounds that `q` is kept in.
        p: the bounds of `p`, which moves on where `q` is at its bound: up for sparser activations, down for denser ones. Default:
            `p` stays as it is.
        every: measure one step in so many; the first is one.
        warmup: steps at first in which the layers are Dropout, with `q = 2`.
        ramp: steps after them in which what is aimed at goes evenly from what was measured to the target.
        loader: batches to run in evaluation mode now and then, so that the sparsity without noise is what reaches the target. Its
            first ones are used, until they have as many vectors as a training step or more.
        forward: how the model is called on one of these batches. Default: as `sparseout.batches.arguments` reads it, so that the
            labels of `(inputs, labels)` are left out, and a model of two inputs takes both of `(first, second)`.

    Attributes:
        layers: names of the layers that are driven, in the order of registration.
        steps: how many were taken.

    Raises:
        TypeError, ValueError: an argument is out of its range, or there is no such Sparseout layer, or one has
            `gradient="exact"`, whose sparsity rises and falls with `q`, or another `SparsityTarget` drives one.

    Warns:
        UserWarning: nothing was measured in the first step, or `measure="zeros"` where no activation is 0, or a target is out of
            reach: once a layer.

    >>> import torch
    >>> from sparseout import Sparseout
    >>> from torch.nn import functional as F
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
        q: tuple[float, float] = (0.3, 4.0),
        p: tuple[float, float] | None = None,
        every: int = 8,
        warmup: int = 0,
        ramp: int = 0,
        loader: Iterable[Any] | None = None,
        forward: Callable[[Any], Any] | None = None,
    ) -> None:
        self._settings = Settings(
            measure=check_choice("measure", measure, MEASURES),
            mean=bool(mean),
            q=check_bounds("q", q, check_q),
            p=None if p is None else check_bounds("p", p, check_p),
            every=check_count("every", every, 1),
            warmup=check_count("warmup", warmup, 0),
            ramp=check_count("ramp", ramp, 0),
        )
        self.every, self.steps = every, 0
        self._inputs = Inputs(model, layers, measure, loader, forward)
        check_layers(self._inputs.layers)
        self._asked = resolve(target, list(self._inputs.layers), mean)
        self._targets = dict(self._asked)
        self._modules = {name: module for name, module in self._inputs.layers.items() if mean or name in self._targets}
        self.layers = tuple(self._modules)
        self._own_p = {name: module.p for name, module in self._modules.items()}
        for name, own in self._own_p.items():
            if p and not p[0] <= own <= p[1]:
                raise ValueError(f"p must hold the {own:g} that {name or 'the model'} has, got {p}")
        low, high = self._settings.q
        self._controllers = {
            name: Controller(min(max(self._start(name), low), high), *self._settings.dial) for name in self._targets
        }
        self._bias = dict.fromkeys(self._targets, 0.0)
        self._begin: dict[str, float] = {}
        self._rms: dict[str, float] = {}
        self._warned: set[str] = set()
        drivers.claim(self._modules, self)
        self._begin_to_drive()

    @property
    def target(self) -> dict[str, float]:
        """The target of each layer, or of the mean. May be set, in any of the forms that the argument takes."""
        return dict(self._targets)

    @target.setter
    def target(self, target: Targets) -> None:
        targets = resolve(target, list(self._modules), self._settings.mean)
        if set(targets) != set(self._targets):
            raise ValueError(f"target must name the same layers as before, {', '.join(self._targets)}, got {', '.join(targets)}")
        self._warned -= {name for name in targets if targets[name] != self._targets[name]}
        self._targets = targets

    def step(self) -> None:
        """Call after each step of the optimizer: in one of `every`, take what was measured into account and set `q`."""
        if self._stopped:
            return
        if self.steps % self.every == 0:
            self._take(*self._inputs.take())
        self.steps += 1
        if self.steps % self.every == 0:
            self._inputs.start()

    def stop(self) -> None:
        """End the training: nothing is measured from here on, `step` does nothing, and the layers keep their `q`.

        Another `SparsityTarget` may drive them then; this one goes on with `load_state_dict`.
        """
        self._stopped = True
        self._inputs.stop()
        drivers.release(self._modules, self)

    def report(self) -> TargetReport:
        """How far each layer is: its target, what is measured, `q`, and whether the target is out of reach."""
        return TargetReport(tuple(self._reach(name) for name in self._targets))

    def state_dict(self) -> dict[str, Any]:
        """All that `step` changes, in numbers, lists and dictionaries that JSON can hold: save it after `step()`."""
        return State(
            settings=self._settings,
            asked=self._asked,
            targets=self._targets,
            steps=self.steps,
            controllers=self._controllers,
            bias=self._bias,
            begin=self._begin,
            rms=self._rms,
            warned=self._warned,
        ).to_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from where a `SparsityTarget` of the same layers was, to the same numbers, and set their `q`, and `p` if driven.

        The arguments of this one win over those of the saved one. Where it was built with the same `target`, a `target` that was
        set in between is restored; where with another, that is what it aims at from here on. Within other bounds of `q` and `p`,
        these are as near as they can be to what they were.

        Raises:
            ValueError: `state_dict` is not that of a `SparsityTarget` of these layers and this `measure`, or another
                `SparsityTarget` drives one of them. Nothing is changed then.

        Warns:
            UserWarning: an argument differs from the saved one: the message has both.
        """
        state = State.read(state_dict, list(self._targets))
        new, old = self._settings, state.settings
        for name in ("measure", "mean"):
            if getattr(new, name) != getattr(old, name):
                raise ValueError(f"state_dict must be of {name}={getattr(new, name)!r}, got one of {name}={getattr(old, name)!r}")
        other = {k: v for k, v in self._asked.items() if v not in (state.asked[k], state.targets[k])}
        changes = [f"target={other} (saved: { ({k: state.targets[k] for k in other}) })"] if other else []
        changes += new.changes(old)
        if changes:
            warnings.warn(f"this SparsityTarget goes on with its own {', '.join(changes)}", stacklevel=2)
        drivers.claim(self._modules, self)
        self.steps, self._controllers, self._bias = state.steps, state.controllers, state.bias
        self._targets = state.targets | other
        self._begin, self._rms, self._warned = state.begin, state.rms, state.warned - set(other)
        if new != old:
            for controller in self._controllers.values():
                controller.dial = new.fit(controller.dial, old)
                controller.low, controller.high = new.dial
        self._begin_to_drive()

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(
            "a SparsityTarget cannot be copied or pickled: keep it outside of the model, save its state_dict(), and build "
            "another for a copy of the model"
        )

    def _begin_to_drive(self) -> None:
        """Set the layers as the dials say, and measure if the next step is one of those that are."""
        self._stopped = False
        self._set()
        self._inputs.stop()
        if self.steps % self.every == 0:
            self._inputs.start()

    def _take(self, found: Found, vectors: int) -> None:
        """Move the controllers by what a training step showed."""
        self._check(found)
        measured = self._driven(found, self._settings.measure)
        self._rms |= {name: rms for name, rms in self._driven(found, "rms").items() if math.isfinite(rms)}
        due = self._inputs.has_loader and self.steps // self.every % EVALUATE == 0
        evaluated = self._driven(self._inputs.evaluate(self._modules, vectors), self._settings.measure) if due else {}
        for name, controller in self._controllers.items():
            value = measured.get(name)
            if not controller.observe(None if value is None else value + self._bias[name]):
                continue
            if math.isfinite(evaluated.get(name, math.nan)):
                change = (WEIGHT if self.steps else 1.0) * (evaluated[name] - controller.now)
                self._bias[name] += change
                controller.correct(change)
            if self.steps >= self._settings.warmup:
                controller.steer(self._aim(name))
                if self.steps >= self._settings.warmup + self._settings.ramp:
                    self._warn(name)
        self._set()

    def _aim(self, name: str) -> float:
        """What to aim at in this step."""
        begin = self._begin.setdefault(name, self._controllers[name].smoothed)
        warmup, ramp = self._settings.warmup, self._settings.ramp
        done = min(1.0, (self.steps - warmup) / ramp) if ramp else 1.0
        return begin + (self._targets[name] - begin) * done

    def _driven(self, found: Found, measure: str) -> dict[str, float]:
        """A measure of each layer that is driven and ran, or their mean."""
        values = {name: each[measure] for name, each in found.items() if name in self._modules}
        return {MEAN: sum(values.values()) / len(values)} if self._settings.mean and values else values

    def _check(self, found: Found) -> None:
        """Warn of what cannot be driven, at the first sample of a layer."""
        if not found and not self.steps:
            warnings.warn(
                "no Sparseout layer ran in training mode before the first step(): call the model that SparsityTarget has, in "
                "training mode, and build SparsityTarget after the model is compiled",
                stacklevel=4,
            )
        for name in self._modules if self._settings.measure == "zeros" else ():
            new = not self._controllers[MEAN if self._settings.mean else name].samples
            if new and name in found and found[name]["zeros"] <= NO_ZEROS:
                warnings.warn(
                    f"the fraction of zeros in {name or 'the model'} is {found[name]['zeros']:.2g}: where they do not occur, as "
                    "after Tanh, GELU or SiLU, use measure='hoyer'",
                    stacklevel=4,
                )

    def _start(self, name: str) -> float:
        """The `q` to begin with."""
        if self._settings.warmup:
            return 2.0
        q: float = self._module(name).q
        return q

    def _module(self, name: str) -> Any:
        """The layer of that name, or for the mean the first, whose `q` all have."""
        return next(iter(self._modules.values())) if self._settings.mean else self._modules[name]

    def _set(self) -> None:
        """Set `q`, and `p` where it is driven, as the dials say: beyond the bounds of `q`, a dial's unit is the way of `p`."""
        (low, high), p = self._settings.q, self._settings.p
        for name, module in self._modules.items():
            dial = self._controllers[MEAN if self._settings.mean else name].dial
            q = min(max(dial, low), high)
            module.q = q
            if p:
                own, beyond = self._own_p[name], q - dial
                module.p = own + beyond * (p[1] - own if beyond > 0 else own - p[0])

    def _warn(self, name: str) -> None:
        """Say once that a target is out of reach: the dial lies against its bound, and what is measured no longer moves."""
        if name in self._warned or self._controllers[name].at_bound <= LONGEST:
            return
        reach = self._reach(name)
        if reach.out_of_reach:
            self._warned.add(name)
            warnings.warn(str(reach), stacklevel=4)

    def _reach(self, name: str) -> LayerReport:
        controller, target = self._controllers[name], self._targets[name]
        module = self._module(name)
        error = target - controller.measured
        # Not even three times the training so far would get there.
        coming = 2 * math.copysign(1.0, error) * controller.pace
        stalled = controller.at_bound > max(LONGEST, controller.samples / 2) and coming < abs(error)
        missed = not abs(error) <= TOLERANCE  # NaN, where nothing was measured, is a miss
        return LayerReport(
            layer=name,
            label="the mean" if self._settings.mean else name or "the model",
            measure=self._settings.measure,
            target=target,
            measured=controller.measured,
            q=module.q,
            p=module.p,
            missed=missed,
            out_of_reach=missed and stalled,
            bounds=self._settings.q,
            at_bound=controller.at_bound > 0,
            rms=self._rms.get(name, math.nan),
            scale=module.scale,
            p_bounds=self._settings.p,
        )
