"""Runs grouped by setting: all that differ in their seed alone are one."""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from sparseout.records.identity import OMITTED_DEFAULTS, RESULTS, TARGET_FIELDS

# What the settings of one curve differ in.
AXES = {"q": "q", "target_sparsity": "target sparsity"}
_NO_SETTINGS = frozenset((*RESULTS, "run", "seed"))
_ORDER = ("noise", "gradient", "p")
# Settings that mean nothing with a noise, or say no more than its name does.
IRRELEVANT_SETTINGS = {
    "sparseout": {"noise"},
    "dropout": {"noise", "gradient", "scale"},
    "none": {"noise", "gradient", "scale", "p", "p_hidden"},
}
_TITLES = {"sparseout": "Sparseout", "dropout": "nn.Dropout", "none": "no noise"}


@dataclasses.dataclass(frozen=True)
class Setting:
    """Runs that differ in their seed alone.

    Attributes:
        values: their common settings.
        runs: their records, by seed.
    """

    values: dict[str, Any]
    runs: list[Mapping[str, Any]]

    @property
    def axis(self) -> str | None:
        """What a curve of such settings runs along: `target_sparsity` where it drives `q`, else `q`; None without Sparseout."""
        if self.values["noise"] != "sparseout":
            return None
        return "target_sparsity" if "target_sparsity" in self.values else "q"

    def get(self, name: str) -> Any:
        """The value of a setting."""
        return self.values.get(name, OMITTED_DEFAULTS.get(name))

    @property
    def x(self) -> float:
        """The place on that axis."""
        value: float = self.values[self.axis or "q"]
        return value

    @property
    def name(self) -> str:
        """What sets it apart from others of its curve."""
        names = {None: _TITLES[self.values["noise"]], "q": f"q {self.x:g}", "target_sparsity": f"target {self.x:g}"}
        return names[self.axis]

    @property
    def misses(self) -> list[float]:
        """By how much each run that was driven misses its target, on the test data; NaN where nothing was measured."""
        achieved = [run["control"]["achieved"] for run in self.runs]
        return [math.nan if value is None else abs(value - self.x) for value in achieved]

    def each(self, measure: str) -> list[float]:
        """The runs' values of a measure; NaN where a record has none."""
        return [math.nan if run.get(measure) is None else run[measure] for run in self.runs]

    def mean(self, measure: str) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.each(measure))

    def std(self, measure: str) -> float:
        """Standard deviation over the seeds (of a sample, n - 1); NaN for a single one."""
        values = self.each(measure)
        return statistics.stdev(values) if len(values) > 1 else math.nan

    def layer_mean(self, layer: str, measure: str) -> float | None:
        """Mean over the seeds of one layer's measure; None where a record has none."""
        values = [run["layers"].get(layer, {}).get(measure) for run in self.runs]
        return None if None in values else statistics.fmean(values)

    def profile(self) -> tuple[list[float], list[float]]:
        """Ranks in percent, and the relative magnitude at each: means over layers and seeds; empty where no record has one."""
        found = [layer["profile"] for run in self.runs for layer in run["layers"].values() if "profile" in layer]
        profiles = [profile for profile in found if None not in profile]  # as that of a run that diverged
        magnitudes = [statistics.fmean(values) for values in zip(*profiles, strict=True)]
        return [100 * rank / max(1, len(magnitudes) - 1) for rank in range(len(magnitudes))], magnitudes


def settings(records: Sequence[Mapping[str, Any]]) -> list[Setting]:
    """The records' settings, in the order of their noise, gradient, p, other settings and q."""
    groups: dict[str, Setting] = {}
    for record in sorted(records, key=lambda record: record["seed"]):
        values = {key: value for key, value in record.items() if key not in _NO_SETTINGS}
        groups.setdefault(repr(sorted(values.items())), Setting(values, [])).runs.append(record)

    def position(setting: Setting) -> tuple[Any, ...]:
        others = {key: value for key, value in setting.values.items() if key not in (*_ORDER, *AXES)}
        order = (setting.values[key] for key in _ORDER)
        return setting.axis is None, *order, setting.axis or "", repr(sorted(others.items())), setting.x

    return sorted(groups.values(), key=position)


def varying(settings: Sequence[Setting]) -> list[str]:
    """The settings other than those of `AXES` in which these differ."""
    names = dict.fromkeys(name for setting in settings for name in setting.values if name not in AXES)
    values = {name: {repr(setting.get(name)) for setting in settings if _has(setting, name)} for name in names}
    return [name for name in names if len(values[name]) > 1]


def _has(setting: Setting, name: str) -> bool:
    return name not in TARGET_FIELDS or setting.axis == "target_sparsity"


@dataclasses.dataclass(frozen=True)
class Curve:
    """Settings that differ in their place on their axis alone, by rising `x`.

    Attributes:
        label: the settings that set this series apart from others.
        settings: one or more.
    """

    label: str
    settings: list[Setting]

    @property
    def axis(self) -> str | None:
        """`q`, `target_sparsity`, or None where there is no Sparseout, and one setting."""
        return self.settings[0].axis

    @property
    def x(self) -> list[float]:
        """Each setting's place on the axis."""
        return [setting.x for setting in self.settings]

    @property
    def shades(self) -> list[float]:
        """Each setting's place on a colour scale, from 0 to 0.9 as `x` rises."""
        return [0.9 * i / max(1, len(self.settings) - 1) for i in range(len(self.settings))]

    def means(self, measure: str) -> list[float]:
        """Each setting's mean over its seeds."""
        return [setting.mean(measure) for setting in self.settings]

    def spreads(self, measure: str) -> list[float]:
        """Each setting's standard deviation over its seeds, 0 for a single one: what a plot shows around the mean."""
        return [0.0 if math.isnan(std := setting.std(measure)) else std for setting in self.settings]


def curves_of(settings: Sequence[Setting]) -> list[Curve]:
    """The curves that a plot of these settings has, and one series for each that has no axis."""
    groups: dict[str, Curve] = {}
    kinds: dict[tuple[str, str | None], list[Setting]] = {}
    for setting in settings:
        kinds.setdefault((setting.values["noise"], setting.axis), []).append(setting)
    names = {kind: varying(members) for kind, members in kinds.items()}
    for setting in settings:
        noise, axis = setting.values["noise"], setting.axis
        values = {name: setting.get(name) for name in names[noise, axis] if name not in IRRELEVANT_SETTINGS[noise]}
        parts = [] if axis and values else [_TITLES[noise]]
        if axis == "target_sparsity" and ("sparseout", "q") in kinds:
            parts = ["driven to a target"]
        named = (name in OMITTED_DEFAULTS or not isinstance(value, str) for name, value in values.items())
        parts += [f"{name} {value}" if named else value for named, (name, value) in zip(named, values.items(), strict=True)]
        label = ", ".join(parts)
        groups.setdefault(label, Curve(label, [])).settings.append(setting)
    return list(groups.values())


def main_axis(curves: Sequence[Curve]) -> str:
    """The axis of what is drawn against one: `q`, unless every curve is driven to its target."""
    axes = {curve.axis for curve in curves} - {None}
    return "target_sparsity" if axes == {"target_sparsity"} else "q"


def finding(curve: Curve) -> str:
    """What a curve's sparseness does as `q` rises, or how near it comes to its targets, in a sentence."""
    if curve.axis == "target_sparsity":
        return _reach(curve)
    means = [(q, mean) for q, mean in zip(curve.x, curve.means("hoyer"), strict=True) if not math.isnan(mean)]
    if not means:
        return f"{curve.label}: Hoyer sparseness was not measured."
    (first, most), (last, least) = means[0], means[-1]
    missing = len(curve.x) - len(means)
    rest = f"; at {missing} other values of q it was not measured." if missing else "."
    if len(means) < 2:
        return f"{curve.label}: Hoyer sparseness {most:.3f} at q = {first:g}{rest}"
    falls = all(later < earlier for (_, earlier), (_, later) in itertools.pairwise(means))
    verb = "falls strictly with q" if falls else "does not fall monotonically with q"
    return f"{curve.label}: Hoyer sparseness {verb}, from {most:.3f} at q = {first:g} to {least:.3f} at q = {last:g}{rest}"


def _reach(curve: Curve) -> str:
    misses = [miss for setting in curve.settings for miss in setting.misses]
    known = [miss for miss in misses if not math.isnan(miss)]
    low, high = curve.x[0], curve.x[-1]
    targets = f"the targets from {low:g} to {high:g}" if low < high else f"the target {low:g}"
    if not known:
        return f"{curve.label}: nothing was measured for {targets}."
    runs = "1 run" if len(known) == 1 else f"{len(known)} runs"
    if len(known) < len(misses):
        runs += f" (not measured: {len(misses) - len(known)} more)"
    measure = curve.settings[0].values["target_measure"]
    text = f"{curve.label}: {measure} on the test data is within {max(known):.3f} of {targets}, {runs}"
    beyond = sum(bool(run["control"]["out_of_reach"]) for setting in curve.settings for run in setting.runs)
    return f"{text}, {beyond} of them out of reach." if beyond else f"{text}."
