"""Runs grouped by method: the curves and points of a comparison of regularizers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, cast

from sparseout.records.identity import TARGET_FIELDS, settings_of
from sparseout.records.methods import METHOD_SETTINGS, METHODS

Run = Mapping[str, Any]
# Methods are compared if they share all settings but these. A method may be tuned with a learning rate of its own.
_METHOD_SETTINGS = METHOD_SETTINGS.union(TARGET_FIELDS, ("regularizer", "lr"))


@dataclasses.dataclass(frozen=True)
class Method:
    """The runs of a method on one task, one for each seed and target. Its settings may be tuned for each target.

    Attributes:
        name: the method, such as `"l1"`.
        label: its title, with the settings that distinguish it from the study's other curves of this method.
        task: the settings that do not belong to a method.
        measure: the measure of the targets, `"hoyer"` or `"zeros"`; None for runs without a target.
        layers: the layers whose sparsity is compared, those of the task's targets; None if its records do not name them.
        runs: the records, in the order of their seeds.
    """

    name: str
    label: str
    task: dict[str, Any]
    measure: str | None
    layers: Sequence[str] | None
    runs: list[Run]

    @property
    def targets(self) -> list[float]:
        """The targets, ascending; empty without targets."""
        return sorted({run["target_sparsity"] for run in self.runs if "target_sparsity" in run})

    @property
    def seeds(self) -> set[int]:
        """The seeds of the runs."""
        return {run["seed"] for run in self.runs}

    def select(self, **settings: Any) -> list[Run]:
        """Return the runs with these settings."""
        return [run for run in self.runs if all(run.get(name) == value for name, value in settings.items())]

    def sparsity(self, run: Run, measure: str) -> float | None:
        """Return the mean sparsity of `layers`, by default of all layers, on the test data; None if one was not measured."""
        if run.get("target_measure") == measure:
            return cast("float | None", run["control"]["achieved"])
        if self.layers is None:
            return run.get(measure)
        values = [run["layers"].get(name, {}).get(measure) for name in self.layers]
        return None if None in values else sum(values) / len(values)


def methods_of(records: Sequence[Run]) -> list[Method]:
    """Group runs by method and settings, Sparseout first; an empty list without a second method, or without targets of Sparseout.

    A method is a curve of its runs with targets. A method without any, such as Dropout, is a point.
    """
    targeted = {run["regularizer"] for run in records if "target_sparsity" in run}
    names = {run["regularizer"] for run in records}
    if "sparseout" not in targeted or len(names) < 2:
        return []
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in sorted(records, key=lambda run: (run["seed"], str(run["run"]))):
        if run["regularizer"] not in targeted or "target_sparsity" in run:
            groups.setdefault((run["regularizer"], _key(run) + str(run.get("target_measure"))), []).append(run)
    curves = [(name, runs) for (name, _), all_runs in sorted(groups.items()) for runs in _curves(all_runs)]
    shared = [_shared(runs) for _, runs in curves]
    controlled = {_key(run): run["control"]["layers"] for run in records if "layers" in run.get("control", {})}
    found = []
    for (name, runs), settings in zip(curves, shared, strict=True):
        alike = [other for other, (other_name, _) in zip(shared, curves, strict=True) if other_name == name]
        varied = [key for key in settings if len({repr(other.get(key)) for other in alike}) > 1]
        label = ", ".join([METHODS[name].title, *(f"{key} {settings[key]}" for key in varied)])
        layers = controlled.get(_key(runs[0]))
        found.append(Method(name, label, _task(runs[0]), runs[0].get("target_measure"), layers, runs))
    return sorted(found, key=lambda method: method.name != "sparseout")


def _task(run: Run) -> dict[str, Any]:
    return {name: value for name, value in settings_of(run).items() if name != "seed" and name not in _METHOD_SETTINGS}


def _key(run: Run) -> str:
    return repr(sorted(_task(run).items()))


def _curves(runs: Sequence[Run]) -> list[list[Run]]:
    """Split the runs by all settings of the method if several have the same seed and target."""
    if len({(run["seed"], run.get("target_sparsity")) for run in runs}) == len(runs):
        return [list(runs)]
    found: dict[str, list[Run]] = {}
    for run in runs:
        settings = {name: run.get(name) for name in _METHOD_SETTINGS - {"target_sparsity"}}
        found.setdefault(repr(sorted(settings.items())), []).append(run)
    return [found[key] for key in sorted(found)]


def _shared(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the settings that all runs share."""
    names = [name for name in settings_of(runs[0]) if name not in ("seed", "target_sparsity")]
    return {name: runs[0][name] for name in names if all(run.get(name) == runs[0][name] for run in runs)}
