"""What a `SparsityTarget` is asked for: which layers, their targets, and the bounds of what it moves."""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from sparseout.checks import check_number
from sparseout.layers import Sparseout

MEASURES = ("hoyer", "zeros", "gini")
MEAN = "mean"

Targets = float | tuple[float, float] | Mapping[str, float]
Bounds = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Settings:
    """The arguments of a `SparsityTarget` that its state depends on, beside the targets; see there."""

    measure: str
    mean: bool
    q: Bounds
    p: Bounds | None
    every: int
    warmup: int
    ramp: int

    @property
    def dial(self) -> Bounds:
        """The bounds of a controller's dial: `q`, and beyond each bound of `q` a unit that is the way of `p`."""
        beyond = 1.0 if self.p else 0.0
        return self.q[0] - beyond, self.q[1] + beyond

    def changes(self, before: Settings) -> list[str]:
        """What differs from the settings `before`, in words."""
        pairs = ((each.name, getattr(self, each.name), getattr(before, each.name)) for each in dataclasses.fields(self))
        return [f"{name}={new} (saved: {old})" for name, new, old in pairs if new != old]

    def fit(self, dial: float, before: Settings) -> float:
        """The dial for the `q` and the way of `p` that `dial` stood for in the settings `before`, within these bounds."""
        inside = min(max(dial, before.q[0]), before.q[1])
        low, high = self.dial
        return min(max(min(max(inside, self.q[0]), self.q[1]) + (dial - inside), low), high)


def check_layers(modules: Mapping[str, nn.Module]) -> None:
    """Raise unless all are Sparseout layers whose sparsity falls as `q` rises."""
    for name, module in modules.items():
        if not isinstance(module, Sparseout):
            raise ValueError(f"layers must be Sparseout layers, got {name or 'the model'} of type {type(module).__name__}")
        if module.gradient == "exact":
            raise ValueError(
                f"gradient must be 'detached' to drive q, got 'exact' in {name or 'the model'}: its activations grow sparser and "
                "then denser again as q falls, so no controller could tell which way to go"
            )


def resolve(target: Targets, layers: list[str], mean: bool) -> dict[str, float]:
    """The target of each layer that has one, or of the mean."""
    if mean:
        return {MEAN: check_target(target)}
    if isinstance(target, Mapping):
        found: dict[str, float] = {}
        for pattern, value in target.items():
            matches = [name for name in layers if fnmatch.fnmatchcase(name, pattern)]
            if not matches:
                raise ValueError(
                    f"target[{pattern!r}] matches no Sparseout layer, of which there are {', '.join(map(repr, layers))}"
                )
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
    """`value` as a float, or raise unless it lies in (0, 1)."""
    return check_number("target", value, math.ulp(0.0), math.nextafter(1.0, 0.0), "a sparsity in (0, 1)")


def check_bounds(name: str, bounds: Any, check: Callable[[float], float]) -> Bounds:
    """`bounds` as `(low, high)`, or raise unless `check` takes both and the first is the lower."""
    if not isinstance(bounds, (tuple, list)) or len(bounds) != 2:
        raise TypeError(f"{name} must be (low, high), got {bounds!r}")
    low, high = map(check, bounds)
    if not low < high:
        raise ValueError(f"{name} must be (low, high) with low < high, got {bounds!r}")
    return low, high
