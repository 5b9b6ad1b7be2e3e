"""Schedules of `p` and `q` for the layers of a model, used as a learning-rate scheduler is used for an optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from sparseout.checks import check_count, check_p, check_q
from sparseout.layers import Sparseout
from sparseout.notebook import page, plural

_CHECKS: dict[str, Callable[[float], float]] = {"p": check_p, "q": check_q}


class _Schedule:
    """The base of all schedules: the layers, the start and end of each layer's values, and the number of steps taken."""

    def __init__(
        self,
        layers: nn.Module | Iterable[nn.Module],
        steps: int,
        *,
        p: float | Sequence[float] | None = None,
        q: float | Sequence[float] | None = None,
    ) -> None:
        self.layers, self.steps, self.step_count = _find(layers), check_count("steps", steps, 1), 0
        given = {name: value for name, value in (("p", p), ("q", q)) if value is not None}
        if not given:
            raise ValueError("p or q must be given, got None for both")
        self._ends = {
            name: [self._ends_of(check, given[name], getattr(layer, name)) for layer in self.layers]
            for name, check in _CHECKS.items()
            if name in given
        }
        self._set()

    def step(self) -> None:
        """Advance by one step and set `p` and `q` of the layers; after the last step they remain constant."""
        self.step_count = min(self.step_count + 1, self.steps)
        self._set()

    def state_dict(self) -> dict[str, Any]:
        """Return the state as numbers and lists, for `load_state_dict`."""
        ends = {name: [list(pair) for pair in pairs] for name, pairs in self._ends.items()}
        return {"steps": self.steps, "step_count": self.step_count, "ends": ends}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the state of a schedule with the same number of layers, and set `p` and `q` of the layers.

        Raises:
            ValueError: `state_dict` does not describe a schedule with this number of layers. The schedule is then unchanged.
        """
        try:
            steps = check_count("steps", state_dict["steps"], 1)
            step_count = check_count("step_count", state_dict["step_count"], 0)
            ends = {
                name: [(_CHECKS[name](start), _CHECKS[name](end)) for start, end in pairs]
                for name, pairs in state_dict["ends"].items()
            }
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"state_dict must describe a schedule, got one with an error at: {error}") from error
        counts, loaded = ({name: len(pairs) for name, pairs in each.items()} for each in (self._ends, ends))
        if loaded != counts:
            raise ValueError(f"state_dict must have the layer counts of this schedule, {counts}, got {loaded}")
        self.steps, self.step_count, self._ends = steps, step_count, ends
        self._set()

    def __repr__(self) -> str:
        names = " and ".join(self._ends)
        layers = plural(len(self.layers), "layer")
        return f"{type(self).__name__} schedule of {names} in {layers}, after {self.step_count} of {self.steps} steps"

    def _repr_html_(self) -> str:
        parts = [(name, layer, *ends) for name in self._ends for layer, ends in zip(self.layers, self._ends[name], strict=True)]
        rows = [
            [str(self.layers.index(layer)), name, *(f"{value:.3g}" for value in (start, getattr(layer, name), end))]
            for name, layer, start, end in parts
        ]
        return page([repr(self)], [["index", "number", "start", "now", "end"], *rows], left=2)

    def _set(self) -> None:
        fraction = self._fraction(min(self.step_count / self.steps, 1.0))
        for name, pairs in self._ends.items():
            for layer, (start, end) in zip(self.layers, pairs, strict=True):
                setattr(layer, name, _between(start, end, fraction))

    def _fraction(self, time: float) -> float:
        """Return the fraction of the way from start to end after the fraction `time` of the steps."""
        return time

    def _ends_of(self, check: Callable[[float], float], given: Any, own: float) -> tuple[float, float]:
        if isinstance(given, (list, tuple)) and len(given) == 2:
            return check(given[0]), check(given[1])
        return own, check(given)


class Linear(_Schedule):
    """`value(t) = start + (end - start) t / steps`, and `end` from then on, for `p`, `q` or both.

    The constructor sets the values of `t = 0`. Call `step()` once per training step or once per epoch, with `steps` in the same
    unit. A compiled model does not recompile. `state_dict()` and `load_state_dict()` save and restore a schedule together with
    the values of its layers, which a model's own `state_dict` does not contain.

    Args:
        layers: a model, of which all Sparseout layers follow the schedule; or an iterable of layers or parts of a model.
        steps: number of steps from start to end, at least 1.
        p, q: the end, which each layer approaches from its own value; or `(start, end)`. Default: unchanged. At least one is
            required.

    Raises:
        TypeError, ValueError: an argument has the wrong type or is out of range, or there is no Sparseout layer. The layers are
            then unchanged.

    >>> layer = Sparseout(p=0.5, q=2.0)
    >>> schedule = Linear(layer, steps=4, q=1.0)
    >>> for _ in range(5):
    ...     schedule.step()
    ...     print(layer.q)
    1.75
    1.5
    1.25
    1.0
    1.0
    """


class Cosine(_Schedule):
    """`value(t) = start + (end - start) (1 - cos(pi t / steps)) / 2`, and `end` from then on: slow at both ends.

    Args:
        layers, steps, p, q: see `Linear`.

    >>> layer = Sparseout(p=0.5, q=2.0)
    >>> schedule = Cosine(layer, steps=4, p=(0.0, 0.4))
    >>> for _ in range(4):
    ...     schedule.step()
    ...     print(round(layer.p, 4))
    0.0586
    0.2
    0.3414
    0.4
    """

    def _fraction(self, time: float) -> float:
        return (1 - math.cos(math.pi * time)) / 2


class WarmUp(_Schedule):
    """`value(t) = start + (own - start) t / steps`, and each layer's own value from then on.

    Args:
        layers, steps: see `Linear`.
        p, q: the start. Default: `p` starts at 0, so the noise grows to its full strength, and `q` is unchanged. With `p=None`
            and `q=2.0` the layers start as Dropout.

    >>> layer = Sparseout(p=0.4, q=1.5)
    >>> schedule = WarmUp(layer, steps=2)
    >>> layer.p
    0.0
    >>> schedule.step(), layer.p
    (None, 0.2)
    >>> schedule.step(), layer.p
    (None, 0.4)
    """

    def __init__(
        self, layers: nn.Module | Iterable[nn.Module], steps: int, *, p: float | None = 0.0, q: float | None = None
    ) -> None:
        super().__init__(layers, steps, p=p, q=q)

    def _ends_of(self, check: Callable[[float], float], given: Any, own: float) -> tuple[float, float]:
        return check(given), own


def _find(layers: nn.Module | Iterable[nn.Module]) -> list[Sparseout]:
    parts = [layers] if isinstance(layers, nn.Module) else list(layers)
    for part in parts:
        if not isinstance(part, nn.Module):
            raise TypeError(f"layers must be a model or modules, got {type(part).__name__}")
    found = [module for part in parts for module in part.modules() if isinstance(module, Sparseout)]
    if not found:
        raise ValueError("layers must contain a Sparseout layer, got none: insert one first, for example with swap_dropout")
    return list(dict.fromkeys(found))


def _between(start: float, end: float, fraction: float) -> float:
    """Return `start + (end - start) fraction`, exact at both ends and if they are equal."""
    return start + (end - start) * fraction if fraction < 0.5 else end - (end - start) * (1 - fraction)
