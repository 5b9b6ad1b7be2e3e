"""The figure of a comparison of methods: the score against measured sparsity, and the time of a run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from sparseout.records.files import Location
from sparseout.records.layer_record import MEASURE_TITLES
from sparseout.records.scores import title_of
from sparseout.report import statistics
from sparseout.report.figure import GREY, save
from sparseout.report.methods import Method, Run, methods_of
from sparseout.report.statistics import Estimate, estimate

# Okabe and Ito's colours, which differ for every kind of colour vision; without their yellow, which is too light for lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "p", "h")
MAX_METHODS = 12  # more cannot be distinguished
MEASURES = ("hoyer", "zeros")
FONT = 11  # points


@dataclasses.dataclass(frozen=True)
class Level:
    """The runs of a method with one target, or all runs of a method without targets.

    Attributes:
        name: the target, or an empty text.
        values: the estimate of each measure and of the score, by name.
    """

    name: str
    values: Mapping[str, Estimate]


def levels_of(method: Method, score: str) -> list[Level]:
    """Return the levels of a method in the order of their targets."""
    found = []
    targets: Sequence[float | None] = method.targets or (None,)
    for target in targets:
        runs = method.select(target_sparsity=target)
        values = {name: estimate([_number(method.sparsity(run, name)) for run in runs]) for name in MEASURES}
        values[score] = estimate([_number(run.get(score)) for run in runs])
        found.append(Level("" if target is None else f"target {target:g}", values))
    return found


def relative_seconds(methods: Sequence[Method]) -> dict[str, list[float]]:
    """Return `seconds / mean seconds without noise` of each run, by the label of its method.

    A run is divided by the runs without noise of the same task on the same kind of machine. Without any, it is left out.
    """
    found: dict[str, list[float]] = {}
    for method in methods:
        for run in method.runs:
            bases = [
                other["seconds"]
                for base in methods
                if base.name == "none" and base.task == method.task
                for other in base.runs
                if other["provenance"]["cpu"] == run["provenance"]["cpu"]
            ]
            mean = sum(bases) / len(bases) if bases else 0.0
            if mean > 0:
                found.setdefault(method.label, []).append(run["seconds"] / mean)
    return found


def plotted(records: Sequence[Run], score: str) -> dict[str, Any] | None:
    """Return what the page of a study draws: the levels of each method, and the time of its runs; None without methods."""
    methods = methods_of(records)[:MAX_METHODS]
    if not methods:
        return None
    seconds = relative_seconds(methods)
    found = []
    for method, style in zip(methods, styles_of(methods), strict=True):
        levels = levels_of(method, score)
        estimates = {name: [level.values[name] for level in levels] for name in (*MEASURES, score)}
        found.append(
            {
                "label": method.label,
                "colour": style["color"],
                "dash": "solid" if style["linestyle"] == "-" else "dash",
                "names": [level.name for level in levels],
                "means": {name: [value.mean for value in values] for name, values in estimates.items()},
                "bars": {name: _bars(name, values) for name, values in estimates.items()},
                "seconds": seconds.get(method.label, []),
            }
        )
    return {"methods": found, "machines": machines_of(methods)}


def machines_of(methods: Sequence[Method]) -> int:
    """Return the number of kinds of machines that the runs were made on."""
    return len({run["provenance"]["cpu"] for method in methods for run in method.runs})


def write_methods(records: Sequence[Run], path: Location, choice: Mapping[str, Any] | None = None) -> None:
    """Draw a line through the levels of each method, with 95 % intervals of sparsity and score, and the time of a run."""
    from matplotlib.figure import Figure

    score = statistics.score_of(records, choice)
    methods = methods_of(records)
    title = title_of(score).capitalize()
    left_out = f"The first {MAX_METHODS} of {len(methods)} methods" if len(methods) > MAX_METHODS else None
    methods = methods[:MAX_METHODS]
    drawn = [(method, levels_of(method, score), style) for method, style in zip(methods, styles_of(methods), strict=True)]
    shown = [name for name in MEASURES if any(level.values[name].mean > 0 for _, levels, _ in drawn for level in levels)]
    seconds = relative_seconds(methods)
    widths = [5.2] * len(shown) + [3.4] * bool(seconds)
    figure = Figure(figsize=(sum(widths), 5), layout="constrained")
    panels = figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]
    for axes, measure in zip(panels, shown, strict=False):
        for _, found, style in drawn:
            _draw(axes, found, measure, score, style)
        axes.set_title(f"{title} against {MEASURE_TITLES[measure]}", loc="left", weight="bold", fontsize=FONT + 1)
        axes.set_xlabel(f"{MEASURE_TITLES[measure]} on the test data", fontsize=FONT)
        low, high = axes.get_xlim()
        axes.locator_params(axis="x", nbins=5)
        axes.set_xticks([tick for tick in axes.get_xticks() if low <= tick <= high])
        axes.set_xlim(low - 0.06 * (high - low), high + 0.5 * (high - low))  # room for the names
    if seconds:
        _draw_seconds(panels[-1], drawn, seconds, machines_of(methods))
    if left_out:
        figure.suptitle(left_out, fontsize=FONT, color=GREY)
    figure.draw_without_rendering()  # settles the layout, in which the names are placed
    for axes, measure in zip(panels, shown, strict=False):
        _label(axes, drawn, measure, score)
    save(figure, path)


def styles_of(methods: Sequence[Method]) -> list[dict[str, Any]]:
    """Return the colour, marker and line of each method. Colours repeat with another line; methods without targets are grey."""
    found, curves = [], 0
    for i, method in enumerate(methods):
        colour = COLOURS[curves % len(COLOURS)] if method.targets else GREY
        line = "-" if curves < len(COLOURS) else "--"
        curves += bool(method.targets)
        found.append({"color": colour, "marker": MARKERS[i], "linestyle": line})
    return found


def _draw(axes: Any, levels: Sequence[Level], measure: str, score: str, style: Mapping[str, Any]) -> None:
    known = [level for level in levels if math.isfinite(level.values[measure].mean) and math.isfinite(level.values[score].mean)]
    if not known:
        return
    x, y = ([level.values[name] for level in known] for name in (measure, score))
    axes.errorbar(
        [value.mean for value in x],
        [value.mean for value in y],
        xerr=_bars(measure, x),
        yerr=_bars(score, y),
        linewidth=2,
        elinewidth=1,
        markersize=6.5,
        capsize=2,
        **style,
    )


def _label(axes: Any, drawn: Sequence[tuple[Method, Sequence[Level], dict[str, Any]]], measure: str, score: str) -> None:
    """Write the name of each method: beside its last level, or below its point without targets."""
    from matplotlib.patheffects import withStroke

    common = {"textcoords": "offset points", "fontsize": FONT, "color": "#222222"}
    outline = [withStroke(linewidth=3, foreground="white")]
    ends, right = [], []
    for method, levels, style in drawn:
        points = [(level.values[measure].mean, level.values[score].mean) for level in levels]
        known = [point for point in points if all(map(math.isfinite, point))]
        if known and method.targets:
            x, y = axes.transData.transform(max(known)) * 72 / axes.figure.dpi
            ends.append((y, x, method.label, style["color"], max(known)))
        elif known:
            text = axes.annotate(method.label, known[0], xytext=(0, -16), ha="center", path_effects=outline, **common)
            if text.get_window_extent().x0 < axes.bbox.x0:  # over the numbers of the axis
                text.set(ha="left", position=(6, -16))
            right.append(text.get_window_extent().x1 * 72 / axes.figure.dpi)
    ends.sort()
    column = max([x + 22 for _, x, *_ in ends] + [x + 8 for x in right], default=0)
    for at, (y, x, label, colour, point) in zip(spread([y for y, *_ in ends], 1.25 * FONT), ends, strict=True):
        arrow = {"arrowstyle": "-", "color": colour, "linewidth": 1, "shrinkA": 1, "shrinkB": 5, "relpos": (0, 0.5)}
        text = axes.annotate(label, point, xytext=(column - x, at - y), va="center", arrowprops=arrow, **common)
        text.set_in_layout(False)


def spread(values: Sequence[float], gap: float) -> list[float]:
    """Return the ascending `values` moved as little as possible, in least squares, so that each is at least `gap` above the last.

    >>> spread([0.0, 1.0, 9.0], 3)
    [-1.0, 2.0, 9.0]
    """
    blocks: list[tuple[float, int]] = []  # isotonic regression of the values minus their places
    for i, value in enumerate(values):
        mean, count = value - i * gap, 1
        while blocks and blocks[-1][0] > mean:
            other, size = blocks.pop()
            mean, count = (other * size + mean * count) / (size + count), size + count
        blocks.append((mean, count))
    return [mean + i * gap for i, mean in enumerate(mean for mean, count in blocks for _ in range(count))]


def _draw_seconds(
    axes: Any,
    drawn: Sequence[tuple[Method, Sequence[Level], dict[str, Any]]],
    seconds: Mapping[str, Sequence[float]],
    machines: int,
) -> None:
    """Draw a dot for each run and a bar at the mean, one row per method."""
    rows = [(method.label, style) for method, _, style in drawn if method.label in seconds]
    for row, (label, style) in enumerate(rows):
        colour, values = style["color"], seconds[label]
        axes.plot(values, [row] * len(values), style["marker"], color=colour, markersize=5, alpha=0.5)
        axes.plot([sum(values) / len(values)] * 2, [row - 0.3, row + 0.3], color=colour, linewidth=3)
    axes.axvline(1, color=GREY, linewidth=1)
    axes.set_yticks(range(len(rows)), [label for label, _ in rows], fontsize=FONT)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_title("Time of a run", loc="left", weight="bold", fontsize=FONT + 1)
    note = f", each on its own of {machines} machines" if machines > 1 else ""
    axes.set_xlabel(f"seconds relative to no noise{note}", fontsize=FONT)


def _bars(name: str, values: Sequence[Estimate]) -> tuple[list[float], list[float]]:
    """Return how far each interval goes below and above its mean: 0 without an interval, and within 0 and 1 for a sparsity."""
    least, greatest = (0.0, 1.0) if name in MEASURES else (-math.inf, math.inf)
    known = [dataclasses.replace(value, low=value.mean, high=value.mean) if math.isnan(value.low) else value for value in values]
    return [value.mean - max(value.low, least) for value in known], [min(value.high, greatest) - value.mean for value in known]


def _number(value: float | None) -> float:
    return math.nan if value is None else value
