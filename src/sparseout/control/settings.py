"""The settings of a `SparsityTarget`: checked layers, targets and bounds."""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from sparseout.checks import check_number
from sparseout.dial import Dial
from sparseout.layers import Sparseout

CONTROLLED_MEASURES = ("hoyer", "zeros", "gini")
MEAN = "mean"

Targets = float | tuple[float, float] | Mapping[str, float]
Bounds = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Settings:
    """The arguments of a `SparsityTarget` that its saved state must agree with; `SparsityTarget` documents them.

    The targets are not among them.
    """

    measure: str
    mean: bool
    bounds: Bounds | None
    p: Bounds | None
    every: int
    warmup: int
    ramp: int

    def number_bounds(self, dial: Dial) -> Bounds:
        """Return the bounds of the controlled number: the argument, or those of its dial."""
        return self.bounds or (dial.low, dial.high)

    def positions(self, dial: Dial) -> Bounds:
        """Return the bounds of the controlled number as positions of its dial."""
        low, high = sorted(map(dial.position, self.number_bounds(dial)))
        return low, high

    def output_bounds(self, dial: Dial) -> Bounds:
        """Return the bounds of a controller's output: the positions, and a step beyond each that stands for the range of `p`."""
        low, high = self.positions(dial)
        beyond = 1.0 if self.p else 0.0
        return low - beyond, high + beyond

    def apply(self, module: Any, output: float, own_p: float | None) -> None:
        """Set the number of `module`, and its `p` if it is controlled, to the `output` of a controller.

        Beyond a bound of the number, one step of output spans the range of `p` on that side of `own_p`, its value at first.
        """
        dial: Dial = module.dial
        position = _clip(output, self.positions(dial))
        # Rounding must not move the number beyond its bounds.
        setattr(module, dial.name, _clip(dial.value(position), self.number_bounds(dial)))
        if self.p and own_p is not None:
            beyond = position - output
            module.p = own_p + beyond * (self.p[1] - own_p if beyond > 0 else own_p - self.p[0])

    def differences(self, saved: Settings) -> list[str]:
        """Return a phrase for each setting that differs from `saved`."""
        values = ((each.name, getattr(self, each.name), getattr(saved, each.name)) for each in dataclasses.fields(self))
        return [f"{name}={new} (saved: {old})" for name, new, old in values if new != old]

    def convert_output(self, output: float, saved: Settings, dial: Dial) -> float:
        """Return the output that keeps the number and the fraction of the range of `p` of an `output` under `saved` settings."""
        position = _clip(output, saved.positions(dial))
        return _clip(_clip(position, self.positions(dial)) + (output - position), self.output_bounds(dial))


def has_dial(name: str, module: nn.Module) -> bool:
    """Whether `module` has a `Dial`, as Sparseout and the layers of `sparseout.regularizers` do."""
    return isinstance(getattr(module, "dial", None), Dial)


def check_layers(modules: Mapping[str, Any], mean: bool, controls_p: bool) -> None:
    """Raise unless all modules have a dial that a controller can move, and for the mean the same one."""
    for name, module in modules.items():
        if not has_dial(name, module):
            raise ValueError(
                f"layers must have a dial, such as Sparseout layers, got {name or 'the model'} of type {type(module).__name__}"
            )
        if controls_p and not isinstance(module, Sparseout):
            raise ValueError(f"p must be None, because {name or 'the model'} is a {type(module).__name__}, not a Sparseout layer")
        if isinstance(module, Sparseout) and module.gradient == "exact":
            raise ValueError(
                f"gradient must be 'detached' to control q, got 'exact' in {name or 'the model'}: "
                "under it sparsity both rises and falls as q falls"
            )

    dials = {type(module).__name__: module.dial for module in modules.values()}
    if mean and len({(dial.name, dial.sparser, dial.scale, dial.step) for dial in dials.values()}) > 1:
        raise ValueError(f"layers must have the same dial with mean=True, got layers of type {', '.join(dials)}")


def check_number_bounds(bounds: Any, modules: Mapping[str, Any]) -> Bounds | None:
    """Return `bounds` as `(low, high)`, or raise unless every module accepts both numbers."""
    if bounds is None:
        return None
    checked = check_bounds("bounds", bounds, lambda bound: check_number("bounds", bound, -math.inf, math.inf, "two numbers"))
    for name, module in modules.items():
        dial, before = module.dial, getattr(module, module.dial.name)
        try:
            for bound in checked:
                setattr(module, dial.name, bound)
                dial.position(bound)
        except (TypeError, ValueError) as error:
            raise ValueError(f"bounds must be values of {dial.name} in {name or 'the model'}, got {bounds!r}: {error}") from error
        finally:
            setattr(module, dial.name, before)
    return checked


def initial_p(modules: Mapping[str, Any], bounds: Bounds | None) -> dict[str, float]:
    """Return the `p` of each module if it is controlled within `bounds`, or raise if it is not in them."""
    found = {name: module.p for name, module in modules.items()} if bounds else {}
    for name, own in found.items():
        if bounds and not bounds[0] <= own <= bounds[1]:
            raise ValueError(f"p must be bounds that hold p={own:g} of {name or 'the model'}, got {bounds}")
    return found


def resolve_targets(target: Targets, layers: list[str], mean: bool) -> dict[str, float]:
    """Return the target of each controlled layer by name, or the target of the mean."""
    if mean:
        return {MEAN: check_target(target)}
    if isinstance(target, Mapping):
        found: dict[str, float] = {}
        for pattern, value in target.items():
            matches = [name for name in layers if fnmatch.fnmatchcase(name, pattern)]
            if not matches:
                raise ValueError(f"target[{pattern!r}] must match one of the layers, {', '.join(map(repr, layers))}")
            found |= dict.fromkeys(matches, check_target(value))
        if not found:
            raise ValueError("target must name at least one layer, got an empty mapping")
        return {name: found[name] for name in layers if name in found}
    if isinstance(target, tuple):
        if len(target) != 2:
            raise ValueError(f"target must be a number, (first, last) or a mapping, got {target!r}")
        first, last = map(check_target, target)
        return {name: first + (last - first) * i / max(1, len(layers) - 1) for i, name in enumerate(layers)}
    return dict.fromkeys(layers, check_target(target))


def check_target(value: Any) -> float:
    """Return `value` as a float, or raise unless it lies in (0, 1)."""
    return check_number("target", value, math.ulp(0.0), math.nextafter(1.0, 0.0), "a sparsity in (0, 1)")


def check_bounds(name: str, bounds: Any, check: Callable[[float], float]) -> Bounds:
    """Return `bounds` as `(low, high)`, or raise unless `check` accepts both and `low < high`."""
    if not isinstance(bounds, (tuple, list)) or len(bounds) != 2:
        raise TypeError(f"{name} must be (low, high), got {bounds!r}")
    low, high = map(check, bounds)
    if not low < high:
        raise ValueError(f"{name} must be (low, high) with low < high, got {bounds!r}")
    return low, high


def _clip(number: float, bounds: Bounds) -> float:
    return min(max(number, bounds[0]), bounds[1])
