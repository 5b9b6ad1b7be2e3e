"""The state of a `SparsityTarget`, as it is saved and as it is read: what does not fit is refused by the name of its field."""

from __future__ import annotations

import dataclasses
import math
import reprlib
import sys
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from sparseout.control.controller import GAINS, Controller
from sparseout.control.goals import MEASURES, Bounds, Settings, check_target

LARGEST = 1e6  # magnitude of a saved number: far above any that a run has, far below where arithmetic overflows
MOST = 2**53  # of a saved count
_OF_SETTINGS = ("low", "high")  # what a controller has from the settings


@dataclasses.dataclass
class State:
    """All that the steps of a `SparsityTarget` change, and what it was built with.

    Attributes:
        settings: its arguments.
        asked: the targets that it was built with.
        targets: those that it has now: its `target` may be set.
        steps: how many were taken.
        controllers: of each target.
        bias: what the last evaluations found beyond what training measures.
        begin: what was measured where the ramp began.
        rms: of the layers' inputs in the last measurement.
        warned: layers whose target was said to be out of reach.
    """

    settings: Settings
    asked: dict[str, float]
    targets: dict[str, float]
    steps: int
    controllers: dict[str, Controller]
    bias: dict[str, float]
    begin: dict[str, float]
    rms: dict[str, float]
    warned: set[str]

    def to_dict(self) -> dict[str, Any]:
        """In numbers, strings, lists and dictionaries that JSON can hold."""
        state = dataclasses.asdict(self) | {"warned": sorted(self.warned)}
        for controller in state["controllers"].values():
            for name in _OF_SETTINGS:
                del controller[name]
        for name in ("q", "p"):
            bounds = state["settings"][name]
            state["settings"][name] = bounds and list(bounds)
        return state

    @classmethod
    def read(cls, data: Any, names: Collection[str]) -> State:
        """The state that `to_dict` gave, of a `SparsityTarget` whose targets have these `names`.

        Raises:
            ValueError: `data` is something else.
        """
        fields = _Field("", data).items([field.name for field in dataclasses.fields(cls)])
        settings = _settings(fields["settings"])
        driven = fields["targets"].value
        if isinstance(driven, Mapping) and set(driven) != set(names):
            raise ValueError(f"state_dict must be for {reprlib.repr(list(names))}, got one for {reprlib.repr(list(driven))}")

        def by_layer(part: str, optional: bool = False) -> dict[str, _Field]:
            items = fields[part].items(() if optional else names, names)
            return {name: items[name] for name in names if name in items}

        warned = fields["warned"]
        if not isinstance(warned.value, list) or not all(isinstance(name, str) and name in names for name in warned.value):
            raise warned.wrong("a list of names of layers that are driven")
        return cls(
            settings=settings,
            asked={name: each.target() for name, each in by_layer("asked").items()},
            targets={name: each.target() for name, each in by_layer("targets").items()},
            steps=fields["steps"].count(),
            controllers={name: _controller(each, settings) for name, each in by_layer("controllers").items()},
            bias={name: each.number() for name, each in by_layer("bias").items()},
            begin={name: each.number() for name, each in by_layer("begin", optional=True).items()},
            rms={name: each.number(0.0, sys.float_info.max) for name, each in by_layer("rms", optional=True).items()},
            warned=set(warned.value),
        )


class _Field(NamedTuple):
    """A part of what is read, and the keys that lead to it."""

    path: str
    value: Any

    def wrong(self, allowed: str) -> ValueError:
        """The error to raise."""
        got = " ".join(reprlib.repr(self.value).split())
        return ValueError(f"state_dict must {f'have {allowed} at {self.path}' if self.path else f'be {allowed}'}, got {got}")

    def items(self, required: Collection[str], possible: Collection[str] = ()) -> dict[str, _Field]:
        """Those of a mapping that has the required keys, and no others but the possible ones."""
        if not isinstance(self.value, Mapping):
            raise self.wrong("a mapping")
        place = f" at {self.path}" if self.path else ""
        for key in required:
            if key not in self.value:
                raise ValueError(f"state_dict must have an item {key!r}{place}, got none")
        for key in self.value:
            if key not in required and key not in possible:
                raise ValueError(f"state_dict must have no other items than it is saved with, got {reprlib.repr(key)}{place}")
        return {key: _Field(f"{self.path}[{key!r}]", value) for key, value in self.value.items()}

    def number(self, low: float = -LARGEST, high: float = LARGEST) -> float:
        """A number from `low` to `high`."""
        value = self.value
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise self.wrong(f"a number in [{low:g}, {high:g}]")
        return float(value)

    def number_or_nan(self, missing: bool) -> float:
        """A number; NaN if it is missing."""
        if not missing:
            return self.number()
        if not isinstance(self.value, float) or not math.isnan(self.value):
            raise self.wrong("NaN, as there was no sample")
        return math.nan

    def target(self) -> float:
        """A sparsity."""
        try:
            return check_target(self.value)
        except (TypeError, ValueError):
            raise self.wrong("a sparsity in (0, 1)") from None

    def count(self, low: int = 0) -> int:
        """An integer of at least `low`."""
        value = self.value
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= MOST:
            raise self.wrong(f"an integer of at least {low}")
        return value

    def bounds(self, high: float) -> Bounds:
        """Two numbers from 0 to `high`, of which the first is the lower."""
        if not isinstance(self.value, (list, tuple)) or len(self.value) != 2:
            raise self.wrong("[low, high]")
        lower, upper = (_Field(f"{self.path}[{i}]", value).number(0.0, high) for i, value in enumerate(self.value))
        if not lower < upper:
            raise self.wrong("[low, high] with low < high")
        return lower, upper


def _settings(field: _Field) -> Settings:
    items = field.items([each.name for each in dataclasses.fields(Settings)])
    if not isinstance(items["measure"].value, str) or items["measure"].value not in MEASURES:
        raise items["measure"].wrong(f"one of {', '.join(map(repr, MEASURES))}")
    if not isinstance(items["mean"].value, bool):
        raise items["mean"].wrong("True or False")
    return Settings(
        measure=items["measure"].value,
        mean=items["mean"].value,
        q=items["q"].bounds(sys.float_info.max),
        p=None if items["p"].value is None else items["p"].bounds(1.0),
        every=items["every"].count(1),
        warmup=items["warmup"].count(),
        ramp=items["ramp"].count(),
    )


def _controller(field: _Field, settings: Settings) -> Controller:
    items = field.items([each.name for each in dataclasses.fields(Controller) if each.name not in _OF_SETTINGS])
    low, high = settings.dial
    counts = {name: items[name].count() for name in ("samples", "absent", "since", "stuck", "at_bound")}
    if not isinstance(items["finite"].value, bool):
        raise items["finite"].wrong("True or False")
    if items["side"].count(-1) > 1:
        raise items["side"].wrong("-1, 0 or 1")
    return Controller(
        dial=items["dial"].number(low, high),
        low=low,
        high=high,
        finite=items["finite"].value,
        side=items["side"].value,
        gain=items["gain"].number(*GAINS),
        trend=items["trend"].number(),
        pace=items["pace"].number(),
        smoothed=items["smoothed"].number_or_nan(not counts["samples"]),
        past=items["past"].number_or_nan(not counts["samples"]),
        **counts,
    )
