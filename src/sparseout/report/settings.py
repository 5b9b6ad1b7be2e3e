"""Runs grouped by setting, and settings grouped into curves. Runs of one setting differ only in their seed."""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sparseout.records.identity import omitted_defaults, settings_of, unused_settings
from sparseout.records.layer_record import MEASURE_TITLES
from sparseout.records.methods import METHODS

# The settings that a curve may run along, with their titles.
AXES = {"q": "q", "target_sparsity": "target sparsity"}
_ORDER = ("gradient", "p")
_RANKS = {name: rank for rank, name in enumerate(METHODS)}


@dataclasses.dataclass(frozen=True)
class Setting:
    """Runs that differ only in their seed.

    Attributes:
        values: the settings that the runs share, by name.
        runs: the records of the runs, in the order of their seeds.
        tuned: the settings whose values were chosen for each setting by the same rule. They do not distinguish settings.
    """

    values: dict[str, Any]
    runs: list[Mapping[str, Any]]
    tuned: frozenset[str] = frozenset()

    @property
    def axis(self) -> str | None:
        """The setting that a curve runs along: `target_sparsity` for runs with a target, `q` for Sparseout; None for others."""
        if "target_sparsity" in self.values:
            return "target_sparsity"
        return "q" if self.regularizer == "sparseout" else None

    @property
    def regularizer(self) -> str:
        """The regularizer of the runs."""
        name: str = self.values["regularizer"]
        return name

    @property
    def title(self) -> str:
        """The name of the regularizer in tables and figures."""
        return METHODS[self.regularizer].title

    def has(self, name: str) -> bool:
        """Return whether the runs have a setting, even if older records omit its default."""
        unused = unused_settings(self.regularizer, self.axis == "target_sparsity")
        return name in self.values or (name in omitted_defaults(self.values["study"]) and name not in unused)

    def get(self, name: str) -> Any:
        """Return the value of a setting, or its default if older records omit it."""
        return self.values.get(name, omitted_defaults(self.values["study"]).get(name))

    @property
    def x(self) -> float:
        """The value on the axis; NaN if there is no axis."""
        value: float = self.values[self.axis] if self.axis else math.nan
        return value

    @property
    def name(self) -> str:
        """The name that distinguishes this setting within its curve; without an axis, the regularizer with its number."""
        if self.axis:
            return f"{'q' if self.axis == 'q' else 'target'} {self.x:g}"
        dial = METHODS[self.regularizer].dial
        return f"{self.title}, {dial} {self.values[dial]:g}" if dial else self.title

    @property
    def target_errors(self) -> list[float]:
        """The distance of each run from its target, on the test data; NaN if it was not measured."""
        achieved = [run["control"]["achieved"] for run in self.runs]
        return [math.nan if value is None else abs(value - self.x) for value in achieved]

    def per_seed(self, measure: str) -> list[float]:
        """Return the value of a measure in each run; NaN if a record lacks it."""
        return [math.nan if run.get(measure) is None else run[measure] for run in self.runs]

    def mean(self, measure: str) -> float:
        """Return the mean over the seeds."""
        return statistics.fmean(self.per_seed(measure))

    def std(self, measure: str) -> float:
        """Return the sample standard deviation over the seeds (n - 1); NaN for a single seed or a missing value."""
        values = self.per_seed(measure)
        return statistics.stdev(values) if len(values) > 1 and not any(map(math.isnan, values)) else math.nan

    def layer_mean(self, layer: str, measure: str) -> float | None:
        """Return the mean of one layer's measure over the seeds; None if a record lacks it."""
        values = [run["layers"].get(layer, {}).get(measure) for run in self.runs]
        return None if None in values else statistics.fmean(values)

    def profile(self) -> tuple[list[float], list[float]]:
        """Return ranks in percent and the relative magnitude at each, averaged over layers and seeds; empty without profiles."""
        found = [layer["profile"] for run in self.runs for layer in run["layers"].values() if "profile" in layer]
        profiles = [profile for profile in found if None not in profile]  # the profile of a run that diverged has None
        magnitudes = [statistics.fmean(values) for values in zip(*profiles, strict=True)]
        return [100 * rank / max(1, len(magnitudes) - 1) for rank in range(len(magnitudes))], magnitudes


def dials_of(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the names of the numbers that set the sparsity of the runs, such as `q`."""
    found = {name for record in records for name in dial_of(record)}
    return [name for name in dict.fromkeys(method.dial for method in METHODS.values()) if name is not None and name in found]


def dial_of(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the number that sets the sparsity of a run by its name, the last one if a target moved it; empty without one."""
    if "control" in record:
        return {record["control"]["dial"]: record["control"]["value"]}
    dial = METHODS[record["regularizer"]].dial
    return {dial: record[dial]} if dial else {}


def group_by_setting(records: Sequence[Mapping[str, Any]], tuned: frozenset[str] = frozenset()) -> list[Setting]:
    """Group records by setting, ordered by regularizer, gradient, p, other settings, and q; tuned settings do not count."""
    groups: dict[str, Setting] = {}
    for record in sorted(records, key=lambda record: record["seed"]):
        values = {key: value for key, value in settings_of(record).items() if key != "seed"}
        groups.setdefault(repr(sorted(values.items())), Setting(values, [], tuned)).runs.append(record)

    def position(setting: Setting) -> tuple[Any, ...]:
        others = {key: value for key, value in setting.values.items() if key not in (*_ORDER, *AXES, *tuned)}
        order = (str(setting.get(key)) for key in _ORDER if key not in tuned)
        rank = _RANKS[setting.regularizer]
        return setting.axis is None, rank, *order, setting.axis or "", repr(sorted(others.items())), setting.x

    return sorted(groups.values(), key=position)


def varying_names(settings: Sequence[Setting]) -> list[str]:
    """Return the names in which the given settings differ, without those of `AXES` and without tuned ones."""
    names = dict.fromkeys(name for setting in settings for name in setting.values if name not in setting.tuned.union(AXES))
    values = {name: {repr(setting.get(name)) for setting in settings if setting.has(name)} for name in names}
    return [name for name in names if len(values[name]) > 1]


@dataclasses.dataclass(frozen=True)
class Curve:
    """Settings that differ only in their value on the axis, in ascending order.

    Attributes:
        label: the settings that distinguish this curve from others.
        settings: at least one setting.
    """

    label: str
    settings: list[Setting]

    @property
    def axis(self) -> str | None:
        """`"q"` or `"target_sparsity"`; None for a single setting without an axis."""
        return self.settings[0].axis

    @property
    def x(self) -> list[float]:
        """The value of each setting on the axis."""
        return [setting.x for setting in self.settings]

    @property
    def shades(self) -> list[float]:
        """The position of each setting on a colour scale, ascending from 0 to 0.9."""
        return [0.9 * i / max(1, len(self.settings) - 1) for i in range(len(self.settings))]

    def means(self, measure: str) -> list[float]:
        """Return the mean of each setting over its seeds."""
        return [setting.mean(measure) for setting in self.settings]

    def spreads(self, measure: str) -> list[float]:
        """Return the standard deviation of each setting over its seeds, for error bars; 0 for a single seed."""
        return [0.0 if math.isnan(std := setting.std(measure)) else std for setting in self.settings]


def curves_of(settings: Sequence[Setting]) -> list[Curve]:
    """Group settings into curves. A setting without an axis is a curve of its own."""
    groups: dict[str, Curve] = {}
    kinds: dict[tuple[str, str | None], list[Setting]] = {}
    for setting in settings:
        kinds.setdefault((setting.regularizer, setting.axis), []).append(setting)
    names = {kind: varying_names(members) for kind, members in kinds.items()}
    several = len({regularizer for regularizer, axis in kinds if axis}) > 1
    for setting in settings:
        regularizer, axis = setting.regularizer, setting.axis
        values = {name: setting.get(name) for name in names[regularizer, axis] if setting.has(name)}
        parts = [setting.title] if several or not axis or not values else []
        if axis == "target_sparsity" and (regularizer, "q") in kinds:
            parts = [setting.title, "with a target"] if several else ["with a target"]
        omitted = omitted_defaults(setting.values["study"])
        named = (name in omitted or not isinstance(value, str) for name, value in values.items())
        parts += [f"{name} {value}" if named else value for named, (name, value) in zip(named, values.items(), strict=True)]
        label = ", ".join(parts)
        groups.setdefault(label, Curve(label, [])).settings.append(setting)
    return list(groups.values())


def main_axis(curves: Sequence[Curve]) -> str:
    """Return the x axis of plots: `q`, unless every curve has targets."""
    axes = {curve.axis for curve in curves} - {None}
    return "target_sparsity" if axes == {"target_sparsity"} else "q"


def describe_curve(curve: Curve) -> str:
    """Describe in a sentence how sparseness changes with `q`, or how closely the runs reach their targets."""
    if curve.axis == "target_sparsity":
        return _describe_targets(curve)
    means = [(q, mean) for q, mean in zip(curve.x, curve.means("hoyer"), strict=True) if not math.isnan(mean)]
    if not means:
        return f"{curve.label}: Hoyer sparseness was not measured."
    (first, most), (last, least) = means[0], means[-1]
    missing = len(curve.x) - len(means)
    rest = f"; it was not measured at {missing} other value{'s' if missing > 1 else ''} of q." if missing else "."
    if len(means) < 2:
        return f"{curve.label}: Hoyer sparseness {most:.3f} at q = {first:g}{rest}"
    decreases = all(later < earlier for (_, earlier), (_, later) in itertools.pairwise(means))
    verb = "decreases strictly with q" if decreases else "does not decrease monotonically with q"
    return f"{curve.label}: Hoyer sparseness {verb}, from {most:.3f} at q = {first:g} to {least:.3f} at q = {last:g}{rest}"


def _describe_targets(curve: Curve) -> str:
    target_errors = [error for setting in curve.settings for error in setting.target_errors]
    known = [error for error in target_errors if not math.isnan(error)]
    low, high = curve.x[0], curve.x[-1]
    targets = f"the targets from {low:g} to {high:g}" if low < high else f"the target {low:g}"
    if not known:
        return f"{curve.label}: sparsity was not measured for {targets}."
    runs = "1 run" if len(known) == 1 else f"{len(known)} runs"
    if len(known) < len(target_errors):
        runs += f" (not measured: {len(target_errors) - len(known)} more)"
    measure = MEASURE_TITLES[curve.settings[0].values["target_measure"]]
    text = f"{curve.label}: {measure} on the test data is within {max(known):.3f} of {targets}, {runs}"
    unreachable = sum(bool(run["control"]["out_of_reach"]) for setting in curve.settings for run in setting.runs)
    return f"{text}, {unreachable} of them out of reach." if unreachable else f"{text}."
