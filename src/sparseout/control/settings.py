"""The settings of a `SparsityTarget`: checked layers, targets and bounds."""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from sparseout.checks import check_number
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
    q: Bounds
    p: Bounds | None
    every: int
    warmup: int
    ramp: int

    @property
    def output_bounds(self) -> Bounds:
        """The bounds of a controller's output: `q`, and one unit beyond each bound of `q` that stands for the range of `p`."""
        beyond = 1.0 if self.p else 0.0
        return self.q[0] - beyond, self.q[1] + beyond

    def differences(self, saved: Settings) -> list[str]:
        """Return a phrase for each setting that differs from `saved`."""
        values = ((each.name, getattr(self, each.name), getattr(saved, each.name)) for each in dataclasses.fields(self))
        return [f"{name}={new} (saved: {old})" for name, new, old in values if new != old]

    def convert_output(self, output: float, saved: Settings) -> float:
        """Return the output that keeps the `q` and the fraction of the range of `p` of an `output` under the settings `saved`."""
        q = min(max(output, saved.q[0]), saved.q[1])
        low, high = self.output_bounds
        return min(max(min(max(q, self.q[0]), self.q[1]) + (output - q), low), high)


def check_layers(modules: Mapping[str, nn.Module]) -> None:
    """Raise unless all modules are Sparseout layers whose sparsity falls as `q` rises."""
    for name, module in modules.items():
        if not isinstance(module, Sparseout):
            raise ValueError(f"layers must be Sparseout layers, got {name or 'the model'} of type {type(module).__name__}")
        if module.gradient == "exact":
            raise ValueError(
                f"gradient must be 'detached' to control q, got 'exact' in {name or 'the model'}: "
                "under it sparsity both rises and falls as q falls"
            )


def resolve_targets(target: Targets, layers: list[str], mean: bool) -> dict[str, float]:
    """Return the target of each controlled layer by name, or the target of the mean."""
    if mean:
        return {MEAN: check_target(target)}
    if isinstance(target, Mapping):
        found: dict[str, float] = {}
        for pattern, value in target.items():
            matches = [name for name in layers if fnmatch.fnmatchcase(name, pattern)]
            if not matches:
                raise ValueError(f"target[{pattern!r}] must match one of the Sparseout layers, {', '.join(map(repr, layers))}")
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
