"""Drive the Sparseout layers of a model to a desired sparsity."""

from __future__ import annotations

import dataclasses
import fnmatch
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from sparseout.checks import check_choice, check_count, check_number, check_p, check_q
from sparseout.layers import Sparseout
from sparseout.probe import Probe
from sparseout.probe.findings import Findings
from sparseout.probe.selection import Layers
from sparseout.target.controller import Controller
from sparseout.target.reach import Reach, Report

MEASURES = ("hoyer", "zeros", "gini")
MEAN = "mean"
EVALUATE = 10  # samples between two evaluations
WEIGHT = 0.25  # of the newest evaluation in the difference between evaluation and training
TOLERANCE = 0.02  # within which a target counts as reached
LONGEST = 100  # samples against a bound, at least, before that is worth a warning

Targets = float | tuple[float, float] | Mapping[str, float]


class SparsityTarget:
    """Moves the `q` of Sparseout layers until `S(x) = target` for their clean inputs `x`; see `Probe` for `S`.

    Call `step()` after each step of the optimizer. In one step of `every` the layers' inputs are measured, and a controller of
    each layer moves its `q`: down where the activations are to be sparser, up where they are to be denser. `state_dict()` and
    `load_state_dict()` save and restore it, with the layers' `p` and `q`. Where several processes train, each has a
    `SparsityTarget`, all measure together, and all set the same `q`.

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
        forward: how the model is called on one of these batches. Default: with the items of a mapping by name, with the first of
            a tuple or list, with anything else as it is.

    Attributes:
        layers: names of the layers that are driven, in the order of registration.
        steps: how many were taken.

    Raises:
        TypeError, ValueError: an argument is out of its range, or there is no such Sparseout layer, or one has
            `gradient="exact"`, whose sparsity rises and falls with `q`.

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
        self.measure = check_choice("measure", measure, MEASURES)
        self.every = check_count("every", every, 1)
        self.warmup, self.ramp = check_count("warmup", warmup, 0), check_count("ramp", ramp, 0)
        self.model, self.mean, self.steps = model, mean, 0
        self.loader, self.forward = loader, forward or self._call
        self._probe = Probe(model, Sparseout if layers is None else layers, measures=(self.measure,))
        modules = {layer.name: layer.module for layer in self._probe.layers}
        _check_layers(modules)
        self._targets = _resolve(target, list(modules), mean)
        self._modules: dict[str, Any] = {name: module for name, module in modules.items() if mean or name in self._targets}
        self.layers = tuple(self._modules)
        self._q, self._p = _bounds("q", q, check_q), None if p is None else _bounds("p", p, check_p)
        self._own_p = {name: module.p for name, module in self._modules.items()}
        for name, own in self._own_p.items():
            if self._p and not self._p[0] <= own <= self._p[1]:
                raise ValueError(f"p must hold the {own:g} that {name or 'the model'} has, got {p}")
        beyond = 1.0 if self._p else 0.0
        self._controllers = {
            name: Controller(min(max(self._start(name), self._q[0]), self._q[1]), self._q[0] - beyond, self._q[1] + beyond)
            for name in self._targets
        }
        self._bias = dict.fromkeys(self._targets, 0.0)
        self._begin: dict[str, float] = {}
        self._warned: set[str] = set()
        self._set()
        self._probe.start()

    @property
    def target(self) -> dict[str, float]:
        """The target of each layer, or of the mean. May be set, in any of the forms that the argument takes."""
        return dict(self._targets)

    @target.setter
    def target(self, target: Targets) -> None:
        targets = _resolve(target, list(self._modules), self.mean)
        if set(targets) != set(self._targets):
            raise ValueError(f"target must name the same layers as before, {', '.join(self._targets)}, got {', '.join(targets)}")
        self._targets = targets

    def step(self) -> None:
        """Call after each step of the optimizer: in one of `every`, take what was measured into account and set `q`."""
        if self.steps % self.every == 0:
            findings = self._probe.findings()
            self._probe.stop()
            self._probe.reset()
            self._take(findings)
        self.steps += 1
        if self.steps % self.every == 0:
            self._probe.start()

    def stop(self) -> None:
        """End the training: nothing is measured from here on, and the layers keep their `q`."""
        self._probe.stop()

    def report(self) -> Report:
        """How far each layer is: its target, what is measured, `q`, and whether the target is out of reach."""
        return Report(tuple(self._reach(name) for name in self._targets))

    def state_dict(self) -> dict[str, Any]:
        """All that `step` changes, in numbers, lists and dictionaries that JSON can hold: save it after `step()`."""
        controllers = {name: dataclasses.asdict(controller) for name, controller in self._controllers.items()}
        state = {"steps": self.steps, "targets": dict(self._targets), "controllers": controllers, "bias": dict(self._bias)}
        return {**state, "begin": dict(self._begin), "warned": sorted(self._warned)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from where a `SparsityTarget` of the same layers was, and set their `p` and `q`.

        Raises:
            ValueError: `state_dict` is not that of a `SparsityTarget` of these layers. Nothing is changed then.
        """
        try:
            steps = check_count("steps", state_dict["steps"], 0)
            controllers = {name: Controller(**state) for name, state in state_dict["controllers"].items()}
            bias, begin = ({k: float(v) for k, v in state_dict[name].items()} for name in ("bias", "begin"))
            targets, warned = dict(state_dict["targets"]), set(state_dict["warned"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"state_dict must be that of a SparsityTarget, got one that is wrong at: {error}") from error
        if not set(controllers) == set(targets) == set(bias) == set(self._targets):
            raise ValueError(f"state_dict must drive {', '.join(self._targets)}, got one for {', '.join(controllers)}")
        self.steps, self._controllers, self._targets, self._bias = steps, controllers, targets, bias
        self._begin, self._warned = begin, warned
        self._set()
        self._probe.stop()
        self._probe.reset()
        if self.steps % self.every == 0:
            self._probe.start()

    def _take(self, findings: Findings) -> None:
        """Move the controllers by what a training step showed."""
        measured, vectors = self._values(findings, "train")
        due = self.loader is not None and self.steps // self.every % EVALUATE == 0
        evaluated = self._evaluate(vectors) if due else {}
        for name, value in measured.items():
            if name not in self._controllers or not math.isfinite(value):
                continue
            controller = self._controllers[name]
            controller.observe(value + self._bias[name])
            if math.isfinite(evaluated.get(name, math.nan)):
                change = (WEIGHT if self.steps else 1.0) * (evaluated[name] - controller.now)
                self._bias[name] += change
                controller.correct(change)
            if self.steps >= self.warmup:
                controller.steer(self._aim(name))
                if self.steps >= self.warmup + self.ramp:
                    self._warn(name)
        self._set()

    def _aim(self, name: str) -> float:
        """What to aim at in this step."""
        begin = self._begin.setdefault(name, self._controllers[name].smoothed)
        done = min(1.0, (self.steps - self.warmup) / self.ramp) if self.ramp else 1.0
        return begin + (self._targets[name] - begin) * done

    @torch.no_grad()
    def _evaluate(self, vectors: int) -> dict[str, float]:
        """What the layers' inputs are without noise, on the loader's first batches."""
        modes = {module: module.training for module in self.model.modules()}
        self.model.eval()
        try:
            # A DataLoader draws a seed from the default generator, which is training's.
            with torch.random.fork_rng([]), Probe(self.model, list(self._modules), measures=(self.measure,)) as probe:
                for batch in self.loader or ():
                    self.forward(batch)
                    records = probe.summary().layers
                    if records and records[0].vectors >= vectors:
                        break
                found, _ = self._values(probe.findings(), "eval")
        finally:
            for module, mode in modes.items():
                module.training = mode
        return found

    def _call(self, batch: Any) -> Any:
        if isinstance(batch, Mapping):
            return self.model(**batch)
        return self.model(batch[0] if isinstance(batch, (tuple, list)) else batch)

    def _values(self, findings: Findings, mode: str) -> tuple[dict[str, float], int]:
        """The measure of each layer that was called, or their mean, and how many vectors the first of them had."""
        tallies = {layer.name: findings.tallies.get((layer.name, mode, None)) for layer in self._probe.layers}
        sums = {name: tally.sums for name, tally in tallies.items() if tally and tally.sums.vectors}
        found = {name: self._probe.settings.values(each)[self.measure] for name, each in sums.items()}
        values = {name: math.nan if value is None else value for name, value in found.items()}
        if self.mean and values:
            values = {MEAN: sum(values.values()) / len(values)}
        return values, next((each.vectors for each in sums.values()), 0)

    def _start(self, name: str) -> float:
        """The `q` to begin with."""
        if self.warmup:
            return 2.0
        q: float = self._module(name).q
        return q

    def _module(self, name: str) -> Any:
        """The layer of that name, or for the mean the first, whose `q` all have."""
        return next(iter(self._modules.values())) if self.mean else self._modules[name]

    def _set(self) -> None:
        """Set `q`, and `p` where it is driven, as the dials say: beyond the bounds of `q`, a dial's unit is the way of `p`."""
        for name, module in self._modules.items():
            dial = self._controllers[MEAN if self.mean else name].dial
            q = min(max(dial, self._q[0]), self._q[1])
            module.q = q
            if self._p:
                own, beyond = self._own_p[name], q - dial
                module.p = own + beyond * (self._p[1] - own if beyond > 0 else own - self._p[0])

    def _warn(self, name: str) -> None:
        """Say once that a target is out of reach: the dial lies against its bound, and what is measured no longer moves."""
        if name in self._warned or self._controllers[name].at_bound <= LONGEST:
            return
        reach = self._reach(name)
        if reach.out_of_reach:
            self._warned.add(name)
            warnings.warn(str(reach), stacklevel=4)

    def _reach(self, name: str) -> Reach:
        controller, target = self._controllers[name], self._targets[name]
        module = self._module(name)
        error = target - controller.smoothed
        # Not even three times the training so far would get there.
        coming = 2 * math.copysign(1.0, error) * controller.pace
        stalled = controller.at_bound > max(LONGEST, controller.samples / 2) and coming < abs(error)
        missed = abs(error) > TOLERANCE
        return Reach(
            layer=name,
            label="the mean" if self.mean else name or "the model",
            measure=self.measure,
            target=target,
            measured=controller.smoothed,
            q=module.q,
            p=module.p,
            missed=missed,
            out_of_reach=missed and stalled,
            bounds=self._q,
        )


def _check_layers(modules: Mapping[str, nn.Module]) -> None:
    for name, module in modules.items():
        if not isinstance(module, Sparseout):
            raise ValueError(f"layers must be Sparseout layers, got {name or 'the model'} of type {type(module).__name__}")
        if module.gradient == "exact":
            raise ValueError(
                f"gradient must be 'detached' to drive q, got 'exact' in {name or 'the model'}: its activations grow sparser and "
                "then denser again as q falls, so no controller could tell which way to go"
            )


def _resolve(target: Targets, layers: list[str], mean: bool) -> dict[str, float]:
    """The target of each layer that has one, or of the mean."""
    if mean:
        return {MEAN: _check_target(target)}
    if isinstance(target, Mapping):
        found: dict[str, float] = {}
        for pattern, value in target.items():
            matches = [name for name in layers if fnmatch.fnmatchcase(name, pattern)]
            if not matches:
                raise ValueError(
                    f"target[{pattern!r}] matches no Sparseout layer, of which there are {', '.join(map(repr, layers))}"
                )
            found |= dict.fromkeys(matches, _check_target(value))
        if not found:
            raise ValueError("target must name at least one layer, got an empty mapping")
        return {name: found[name] for name in layers if name in found}
    if isinstance(target, tuple):
        if len(target) != 2:
            raise ValueError(f"target must be a number, (first, last) or a mapping, got {target!r}")
        first, last = map(_check_target, target)
        return {name: first + (last - first) * i / max(1, len(layers) - 1) for i, name in enumerate(layers)}
    return dict.fromkeys(layers, _check_target(target))


def _check_target(value: Any) -> float:
    return check_number("target", value, math.ulp(0.0), math.nextafter(1.0, 0.0), "a sparsity in (0, 1)")


def _bounds(name: str, bounds: tuple[float, float], check: Callable[[float], float]) -> tuple[float, float]:
    if not isinstance(bounds, (tuple, list)) or len(bounds) != 2:
        raise TypeError(f"{name} must be (low, high), got {bounds!r}")
    low, high = map(check, bounds)
    if not low < high:
        raise ValueError(f"{name} must be (low, high) with low < high, got {bounds!r}")
    return low, high
