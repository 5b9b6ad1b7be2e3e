"""What a tune stage chose: its table and curves, warnings about the choice, and the gate of the study."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sparseout.records.choice import better_of, tuned_settings
from sparseout.records.files import Location
from sparseout.records.scores import scores_of, title_of
from sparseout.report import statistics
from sparseout.report.figure import COLOURS, STYLES, save
from sparseout.report.settings import group_by_setting, varying_names

_NOT_TUNED = ("study", "seed", "threads", "precision")  # settings that nobody would tune


def tuning_table(choice: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return the header and a row per contender: the number of its candidates, the chosen one and its score."""
    rows = []
    for contender in choice["contenders"]:
        candidates, chosen = contender["candidates"], contender["chosen"]
        found = candidates[chosen] if chosen is not None else {"settings": {}, "mean": None}
        settings = _settings(found["settings"]) if len(candidates) > 1 else "nothing to tune"
        rows.append([contender["name"], str(len(candidates)), settings or "-", _number(found["mean"])])
    return ["contender", "candidates", "chosen", title_of(choice["score"])], rows


def tuning_sentences(choice: Mapping[str, Any], records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the result of the gate, warnings about the choice, and what was not tuned.

    Args:
        choice: what the tune stage chose.
        records: the summaries of the test runs.
    """
    by_run = {str(record["run"]): record for record in records}
    sentences = _gate(choice, by_run)
    for contender in choice["contenders"]:
        sentences += _warnings(contender, by_run, len(choice["seeds"]))
    tests = [by_run[run] for contender in choice["contenders"] for run in contender["runs"] if run in by_run]
    return sentences + _not_tuned(choice, tests)


def _warnings(contender: Mapping[str, Any], by_run: Mapping[str, Mapping[str, Any]], seeds: int) -> list[str]:
    name, candidates = contender["name"], contender["candidates"]
    if contender["missing"]:
        return [f"warning: {name}: nothing was chosen, because {_runs(contender['missing'])} not complete."]
    found = []
    excluded = [candidate for candidate in candidates if candidate["mean"] is None]
    missed = [candidate for candidate in excluded if candidate["missed"]]
    diverged = [candidate for candidate in excluded if not candidate["missed"]]
    for ineligible, reason in ((missed, "missed its target sparsity"), (diverged, "has no finite score")):
        if ineligible:
            text = "; ".join(_settings(candidate["settings"]) for candidate in ineligible)
            found.append(f"warning: {name}: not eligible, because a run {reason}: {text}.")
    if contender["chosen"] is None:
        return [*found, f"warning: {name}: nothing was chosen, because no candidate is eligible."]
    settings = candidates[contender["chosen"]]["settings"]
    for setting in contender["edges"]:
        values = [candidate["settings"][setting] for candidate in candidates]
        grid = f"{_shown(min(values))} to {_shown(max(values))}"
        found.append(f"warning: {name}: the chosen {setting} {_shown(settings[setting])} is at the edge of its grid, {grid}.")
    tests = [by_run[run] for run in contender["runs"] if run in by_run]
    last = sum(record.get("best_epoch") == record.get("epochs", 0) for record in tests)
    for count, total, stage in ((contender["last_epoch"], seeds, "tuning"), (last, len(tests), "test")):
        if count:
            found.append(f"warning: {name}: the best epoch is the last one in {count} of {total} {stage} runs.")
    if len(candidates) < contender["effort"]:
        counts = f"{len(candidates)} of {contender['effort']} candidates"
        found.append(f"{name}: {counts} differ, because not every tuned setting has an effect.")
    return found


def _not_tuned(choice: Mapping[str, Any], tests: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say which settings are the same in all test runs and were not tuned."""
    if not tests:
        return []
    groups = group_by_setting(tests)
    varying = {*varying_names(groups), *tuned_settings(choice), *_NOT_TUNED}
    values = {name: value for group in groups for name, value in group.values.items() if not isinstance(value, str)}
    axes = {name for name in values if len({repr(group.get(name)) for group in groups}) > 1}
    text = ", ".join(f"{name} {_shown(value)}" for name, value in values.items() if name not in varying | axes)
    return [f"Not tuned, and the same in all runs: {text}."] if text else []


def _gate(choice: Mapping[str, Any], by_run: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say for each pair of tuned Dropout and no noise whether Dropout is better by the primary score."""
    gate = choice.get("gate")
    if not gate:
        return []
    contenders, sentences = choice["contenders"], []
    for dropout, none in gate["pairs"]:
        name = contenders[dropout]["name"]
        text = gate_result(gate["score"], *([by_run.get(run) for run in contenders[i]["runs"]] for i in (dropout, none)))
        sentences.append(f"gate{f' ({name})' if len(gate['pairs']) > 1 else ''}: {text}")
    return sentences


def gate_result(score: str, dropout: Sequence[Mapping[str, Any] | None], none: Sequence[Mapping[str, Any] | None]) -> str:
    """Return whether Dropout beats no noise: whether the 95 % interval of the paired difference lies on the better side of zero.

    Args:
        score: the primary score, on test data.
        dropout: the test runs of tuned Dropout; None for a run without a record.
        none: the test runs without noise, of the same seeds in the same order.

    >>> runs = [{"accuracy": 0.5}, {"accuracy": 0.6}], [{"accuracy": 0.5}, {"accuracy": 0.61}]
    >>> gate_result("accuracy", *runs)
    'NOT passed: this task cannot tell methods apart by accuracy, -0.5 points (95 % -6.9 to 5.9, 2 seeds)'
    """
    title = title_of(score)
    pairs = [(mine.get(score), theirs.get(score)) for mine, theirs in zip(dropout, none, strict=False) if mine and theirs]
    differences = [mine - theirs for mine, theirs in pairs if mine is not None and theirs is not None]
    found = statistics.estimate(differences)
    missing = max(len(dropout), len(none)) - found.count
    if found.count < 2:
        return f"NOT decided: Dropout and no noise have {found.count} seeds in common with a result, and 2 are needed"
    factor, unit = (100, " points") if score == "accuracy" else (1, "")
    mean, low, high = (factor * value for value in (found.mean, found.low, found.high))
    left_out = f", {missing} without a result" if missing else ""
    size = f"{mean:+.3g}{unit} (95 % {low:.2g} to {high:.2g}, {found.count} seeds{left_out})"
    if not found.std > 0:
        return f"NOT decided: {title} {mean:+.3g}{unit} in each of {found.count} seeds{left_out}, so there is nothing to test"
    better = scores_of(run for run in (*dropout, *none) if run)[score]
    if found.low > 0 if better == "higher" else found.high < 0:
        return f"passed, {title} {size}"
    return f"NOT passed: this task cannot tell methods apart by {title}, {size}"


def tuning_curves(choice: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a panel for each tuned setting, with a line for each contender that has the setting.

    A line has the setting's values `x`, the best mean score at each of them, `y`, and the chosen value. The line of a contender
    on which the setting has no effect is level and has no chosen value.
    """
    names = dict.fromkeys(name for contender in choice["contenders"] for name in contender["candidates"][0]["settings"])
    return [{"name": name, "score": title_of(choice["score"]), "lines": _lines(choice, name)} for name in names]


def _lines(choice: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    better = max if better_of(choice) == "higher" else min
    found, values = [], set()
    for contender in choice["contenders"]:
        scores: dict[Any, list[float]] = {}
        for candidate in contender["candidates"]:
            if name in candidate["settings"]:
                means = scores.setdefault(candidate["settings"][name], [])
                means += [candidate["mean"]] if candidate["mean"] is not None else []
        if scores:
            chosen = contender["chosen"]
            settings = {} if chosen is None else contender["candidates"][chosen]["settings"]
            found.append((contender["name"], {x: better(scores[x], default=None) for x in sorted(scores)}, settings.get(name)))
            values |= {*scores} if len(scores) > 1 else set()
    lines = []
    for contender, points, chosen in found:
        if len(points) == 1 and values:
            points, chosen = dict.fromkeys((min(values), max(values)), *points.values()), None
        lines.append({"name": contender, "x": list(points), "y": list(points.values()), "chosen": chosen})
    return lines


def write_tuning(choice: Mapping[str, Any], path: Location) -> None:
    """Draw the tuning curves: a panel for each tuned setting, a line for each contender, a ring around the chosen value."""
    from matplotlib.figure import Figure

    panels = tuning_curves(choice)
    figure = Figure(figsize=(6.5 * len(panels), 4.2), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for i, line in enumerate(panel["lines"]):
            look = {"color": COLOURS[i % len(COLOURS)], "linestyle": ("-", *STYLES)[i // len(COLOURS) % (1 + len(STYLES))]}
            y = [math.nan if value is None else value for value in line["y"]]
            axes.plot(line["x"], y, marker="o", markersize=4, label=line["name"], **look)
            if line["chosen"] is not None:
                chosen = y[line["x"].index(line["chosen"])]
                axes.plot([line["chosen"]], [chosen], "o", color=look["color"], markersize=10, fillstyle="none")
        axes.set_title(f"{panel['score'].capitalize()} by {panel['name']}", loc="left", weight="bold")
        axes.set_xlabel(panel["name"])
        axes.legend(frameon=False, fontsize=9)
    save(figure, path)


def _runs(count: int) -> str:
    return "1 tuning run is" if count == 1 else f"{count} tuning runs are"


def _settings(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_shown(value)}" for name, value in settings.items())


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
