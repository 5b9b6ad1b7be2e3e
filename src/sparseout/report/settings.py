"""Runs grouped by setting: all that differ in their seed alone are one."""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

RESULTS: tuple[str, ...] = (
    "test_loss",
    "perplexity",
    "accuracy",
    "valid_loss",
    "valid_perplexity",
    "valid_accuracy",
    "best_epoch",
)
RESULTS += ("hoyer", "zeros", "rms", "layers", "seconds", "provenance")
_NO_SETTINGS = frozenset((*RESULTS, "run", "seed"))
_ORDER = ("noise", "gradient", "p")
# Settings that mean nothing with a noise, or say no more than its name does.
IGNORED = {"sparseout": {"noise"}, "dropout": {"noise", "gradient"}, "none": {"noise", "gradient", "p", "p_hidden"}}
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
    def has_q(self) -> bool:
        """Whether `q` means anything here."""
        return bool(self.values["noise"] == "sparseout")

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
        profiles = [layer["profile"] for run in self.runs for layer in run["layers"].values() if "profile" in layer]
        magnitudes = [statistics.fmean(values) for values in zip(*profiles, strict=True)]
        return [100 * rank / max(1, len(magnitudes) - 1) for rank in range(len(magnitudes))], magnitudes


def settings(records: Sequence[Mapping[str, Any]]) -> list[Setting]:
    """The records' settings, in the order of their noise, gradient, p, other settings and q."""
    groups: dict[str, Setting] = {}
    for record in sorted(records, key=lambda record: record["seed"]):
        values = {key: value for key, value in record.items() if key not in _NO_SETTINGS}
        groups.setdefault(repr(sorted(values.items())), Setting(values, [])).runs.append(record)

    def position(setting: Setting) -> tuple[Any, ...]:
        others = {key: value for key, value in setting.values.items() if key not in (*_ORDER, "q")}
        return not setting.has_q, *(setting.values[key] for key in _ORDER), repr(sorted(others.items())), setting.values["q"]

    return sorted(groups.values(), key=position)


def varying(settings: Sequence[Setting]) -> list[str]:
    """The settings other than `q` in which these differ."""
    names = [name for name in settings[0].values if name != "q"] if settings else []
    return [name for name in names if len({repr(setting.values[name]) for setting in settings}) > 1]


@dataclasses.dataclass(frozen=True)
class Series:
    """Settings that differ in `q` alone, by rising `q`.

    Attributes:
        label: the settings that set this series apart from others.
        settings: one or more.
    """

    label: str
    settings: list[Setting]

    @property
    def has_q(self) -> bool:
        """Whether `q` means anything here; otherwise there is one setting."""
        return self.settings[0].has_q

    @property
    def q(self) -> list[float]:
        """Each setting's `q`."""
        return [setting.values["q"] for setting in self.settings]

    @property
    def shades(self) -> list[float]:
        """Each setting's place on a colour scale, from 0 to 0.9 as `q` rises."""
        return [0.9 * i / max(1, len(self.settings) - 1) for i in range(len(self.settings))]

    def means(self, measure: str) -> list[float]:
        """Each setting's mean over its seeds."""
        return [setting.mean(measure) for setting in self.settings]

    def spreads(self, measure: str) -> list[float]:
        """Each setting's standard deviation over its seeds, 0 for a single one: what a plot shows around the mean."""
        return [0.0 if math.isnan(std := setting.std(measure)) else std for setting in self.settings]


def series(settings: Sequence[Setting]) -> list[Series]:
    """The curves over `q` that a plot of these settings has, and one series for each that has no `q`."""
    groups: dict[str, Series] = {}
    names = {noise: varying([setting for setting in settings if setting.values["noise"] == noise]) for noise in IGNORED}
    for setting in settings:
        noise = setting.values["noise"]
        values = {name: setting.values[name] for name in names[noise] if name not in IGNORED[noise]}
        parts = [] if setting.has_q and values else [_TITLES[noise]]
        parts += [value if isinstance(value, str) else f"{name} {value}" for name, value in values.items()]
        label = ", ".join(parts)
        groups.setdefault(label, Series(label, [])).settings.append(setting)
    return list(groups.values())


def finding(curve: Series) -> str:
    """What a curve's Hoyer sparseness does as `q` rises, in a sentence."""
    means = curve.means("hoyer")
    if len(means) < 2:
        return f"{curve.label}: Hoyer sparseness {means[0]:.3f} at q = {curve.q[0]:g}."
    falls = all(later < earlier for earlier, later in itertools.pairwise(means))
    verb = "falls strictly with q" if falls else "does not fall monotonically with q"
    return (
        f"{curve.label}: Hoyer sparseness {verb}, from {means[0]:.3f} at q = {curve.q[0]:g} "
        f"to {means[-1]:.3f} at q = {curve.q[-1]:g}."
    )
