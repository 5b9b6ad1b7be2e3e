"""The saved state of a `SparsityTarget`. Reading it checks every field and names the one that is wrong."""

from __future__ import annotations

import dataclasses
import math
import reprlib
import sys
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from sparseout.control.controller import GAIN_BOUNDS, Controller
from sparseout.control.running_loss import RunningLoss
from sparseout.control.settings import CONTROLLED_MEASURES, Bounds, Settings, check_target
from sparseout.dial import Dial

MAX_NUMBER = 1e6  # magnitude of a saved number: far above all real values, far below overflow
MAX_COUNT = 2**53
_FROM_SETTINGS = ("low", "high", "idles")  # fields of a controller that the settings and the dial determine


@dataclasses.dataclass
class State:
    """The state of a `SparsityTarget`: its arguments, and everything that its steps change.

    Attributes:
        settings: the arguments other than the targets.
        requested: the targets that the `target` argument gave.
        targets: the current targets, which setting `SparsityTarget.target` changes.
        steps: number of steps so far.
        controllers: the controller of each target.
        bias: running mean of the sparsity in evaluation minus the sparsity in training.
        ramp_start: the measured sparsity at the start of the ramp.
        rms: root mean square of each layer's input in the last measurement.
        warned: names of the layers that an out-of-reach warning has named.
        loss: the training loss, as far as it was given.
    """

    settings: Settings
    requested: dict[str, float]
    targets: dict[str, float]
    steps: int
    controllers: dict[str, Controller]
    bias: dict[str, float]
    ramp_start: dict[str, float]
    rms: dict[str, float]
    warned: set[str]
    loss: RunningLoss

    def to_dict(self) -> dict[str, Any]:
        """Return the state as numbers, strings, lists and dictionaries, which JSON can hold."""
        state = dataclasses.asdict(self) | {"warned": sorted(self.warned)}
        for controller in state["controllers"].values():
            for name in _FROM_SETTINGS:
                del controller[name]
        for name in ("bounds", "p"):
            bounds = state["settings"][name]
            state["settings"][name] = bounds and list(bounds)
        return state

    @classmethod
    def read(cls, data: Any, dials: Mapping[str, Dial]) -> State:
        """Read the result of `to_dict` for a `SparsityTarget` whose targets have the names and the `dials` given.

        Raises:
            ValueError: a field of `data` is missing, unknown or out of range.
        """
        names = list(dials)
        fields = _Field("", data).items([field.name for field in dataclasses.fields(cls)])
        settings = _settings(fields["settings"])
        controlled = fields["targets"].value
        if isinstance(controlled, Mapping) and set(controlled) != set(names):
            raise ValueError(f"state_dict must be for {reprlib.repr(list(names))}, got one for {reprlib.repr(list(controlled))}")

        def by_layer(part: str, optional: bool = False) -> dict[str, _Field]:
            items = fields[part].items(() if optional else names, names)
            return {name: items[name] for name in names if name in items}

        warned = fields["warned"]
        if not isinstance(warned.value, list) or not all(isinstance(name, str) and name in names for name in warned.value):
            raise warned.error("a list of names of controlled layers")
        return cls(
            settings=settings,
            requested={name: each.target() for name, each in by_layer("requested").items()},
            targets={name: each.target() for name, each in by_layer("targets").items()},
            steps=fields["steps"].count(),
            controllers={name: _controller(each, settings, dials[name]) for name, each in by_layer("controllers").items()},
            bias={name: each.number() for name, each in by_layer("bias").items()},
            ramp_start={name: each.number() for name, each in by_layer("ramp_start", optional=True).items()},
            rms={name: each.number(0.0, sys.float_info.max) for name, each in by_layer("rms", optional=True).items()},
            warned=set(warned.value),
            loss=_loss(fields["loss"]),
        )


class _Field(NamedTuple):
    """A value in the saved state, and the keys that lead to it."""

    path: str
    value: Any

    def error(self, allowed: str) -> ValueError:
        """Return the error for a value that is not `allowed`."""
        got = " ".join(reprlib.repr(self.value).split())
        return ValueError(f"state_dict must {f'have {allowed} at {self.path}' if self.path else f'be {allowed}'}, got {got}")

    def items(self, required: Collection[str], optional: Collection[str] = ()) -> dict[str, _Field]:
        """Return the items of a mapping that has all `required` keys, and no others except `optional` ones."""
        if not isinstance(self.value, Mapping):
            raise self.error("a mapping")
        where = f" at {self.path}" if self.path else ""
        for key in required:
            if key not in self.value:
                raise ValueError(f"state_dict must have an item {key!r}{where}, got none")
        for key in self.value:
            if key not in required and key not in optional:
                raise ValueError(f"state_dict must have no unknown items, got {reprlib.repr(key)}{where}")
        return {key: _Field(f"{self.path}[{key!r}]", value) for key, value in self.value.items()}

    def number(self, low: float = -MAX_NUMBER, high: float = MAX_NUMBER) -> float:
        """Return a number from `low` to `high`."""
        value = self.value
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise self.error(f"a number in [{low:g}, {high:g}]")
        return float(value)

    def running_mean(self, samples: int, largest: float = MAX_NUMBER) -> float:
        """Return a number, or NaN if there are no `samples`."""
        if samples:
            return self.number(-largest, largest)
        if not isinstance(self.value, float) or not math.isnan(self.value):
            raise self.error("NaN, because there is no sample,")
        return math.nan

    def target(self) -> float:
        """Return a sparsity."""
        try:
            return check_target(self.value)
        except (TypeError, ValueError):
            raise self.error("a sparsity in (0, 1)") from None

    def count(self, low: int = 0) -> int:
        """Return an integer of at least `low`."""
        value = self.value
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= MAX_COUNT:
            raise self.error(f"an integer in [{low}, 2**53]")
        return value

    def boolean(self) -> bool:
        """Return True or False."""
        if not isinstance(self.value, bool):
            raise self.error("True or False")
        return self.value

    def bounds(self, low: float, high: float) -> Bounds:
        """Return two numbers from `low` to `high` in ascending order."""
        if not isinstance(self.value, (list, tuple)) or len(self.value) != 2:
            raise self.error("[low, high]")
        lower, upper = (_Field(f"{self.path}[{i}]", value).number(low, high) for i, value in enumerate(self.value))
        if not lower < upper:
            raise self.error("[low, high] with low < high")
        return lower, upper


def _loss(field: _Field) -> RunningLoss:
    items = field.items([each.name for each in dataclasses.fields(RunningLoss)])
    largest = sys.float_info.max
    readings, before = items["readings"].count(), items["before"]
    is_unread = isinstance(before.value, float) and math.isnan(before.value)
    return RunningLoss(
        mean=items["mean"].running_mean(readings, largest),
        before=math.nan if is_unread else before.number(-largest, largest),
        readings=readings,
        at=items["at"].count(),
        finite=items["finite"].boolean(),
    )


def _settings(field: _Field) -> Settings:
    items = field.items([each.name for each in dataclasses.fields(Settings)])
    measure = items["measure"].value
    if not isinstance(measure, str) or measure not in CONTROLLED_MEASURES:
        raise items["measure"].error(f"one of {', '.join(map(repr, CONTROLLED_MEASURES))}")
    return Settings(
        measure=measure,
        mean=items["mean"].boolean(),
        bounds=None if items["bounds"].value is None else items["bounds"].bounds(-sys.float_info.max, sys.float_info.max),
        p=None if items["p"].value is None else items["p"].bounds(0.0, 1.0),
        every=items["every"].count(1),
        warmup=items["warmup"].count(),
        ramp=items["ramp"].count(),
    )


def _controller(field: _Field, settings: Settings, dial: Dial) -> Controller:
    items = field.items([each.name for each in dataclasses.fields(Controller) if each.name not in _FROM_SETTINGS])
    low, high = settings.output_bounds(dial)
    counts = {name: items[name].count() for name in ("samples", "missing", "since_sign_change", "one_sided", "at_bound")}
    error_sign = items["error_sign"].count(-1)
    if error_sign > 1:
        raise items["error_sign"].error("-1, 0 or 1")
    return Controller(
        output=items["output"].number(low, high),
        low=low,
        high=high,
        idles=dial.idles,
        finite=items["finite"].boolean(),
        error_sign=error_sign,
        gain=items["gain"].number(*GAIN_BOUNDS),
        trend=items["trend"].number(),
        searches=items["searches"].boolean(),
        calm=items["calm"].number(),
        drift=items["drift"].number(),
        smoothed=items["smoothed"].running_mean(counts["samples"]),
        long_mean=items["long_mean"].running_mean(counts["samples"]),
        lowest=items["lowest"].running_mean(counts["samples"]),
        highest=items["highest"].running_mean(counts["samples"]),
        **counts,
    )
