"""The page of a probe's summary, or of a comparison of two."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparseout.records.layer_record import MEASURE_TITLES, LayerRecord
from sparseout.records.probe_summary import Comparison, Summary
from sparseout.report import page
from sparseout.report.next_steps import next_steps
from sparseout.report.page import Cell, number, text
from sparseout.report.picture import hoyer_picture
from sparseout.report.probe_data import layers_of, record_data
from sparseout.report.samples import Show, samples_of
from sparseout.report.verdict import is_dead, state_of, urgency, verdict

FIRST = ("hoyer", "zeros", "dead", "rms")  # the measures that matter most
MOST_REMARKS = 12  # the others are folded
Sides = Sequence[tuple[str, Summary, Sequence[LayerRecord]]]


def write_probe(
    shown: Summary | Comparison,
    path: Path,
    *,
    title: str | None = None,
    history: Sequence[Mapping[str, Any]] = (),
    show: Show | None = None,
) -> None:
    """Write a page with a verdict in words, sparsity by depth, the units and magnitudes of each layer, a heat map and a table.

    Args:
        shown: a summary, or a comparison of two. The verdict on a comparison is that on its second summary.
        path: the HTML file to write.
        title: the title of the page. By default it is the name of the model's class.
        history: the result of `sparseout.probe.read_history`, for a plot over training.
        show: returns the sample behind an `Excitation`, as an `Excerpt` of text or an image of Pillow, or None. Without it, the
            page names samples by their index. It is called until the samples fill 1 MB.

    Raises:
        ValueError: no layer was measured, or the two summaries have no layer in common.
    """
    sides: Sides
    if isinstance(shown, Comparison):
        before, after = zip(*shown.pairs, strict=True) if shown.pairs else ((), ())
        sides = [("before", shown.before, before), ("after", shown.after, after)]
    else:
        sides = [("", shown, shown.layers)]
    records, last = sides[0][2], sides[-1][2]
    if not records:
        raise ValueError("no layer to report: none was measured, or the two summaries have none in common")
    names = [name for name in sides[0][1].measured() if all(name in summary.measured() for _, summary, _ in sides)]
    names = [name for name in FIRST if name in names] + [name for name in names if name not in FIRST]
    modes = list(dict.fromkeys(record.mode for record in records))
    steps = [_step(line) for line in history]
    depths, order = _depths(records), sorted(range(len(records)), key=lambda i: urgency(last[i]))
    columns = _Columns(names, len(modes) > 1, any(map(state_of, last)))
    units = any(record.unit_activity for record in last)
    page.write(
        "probe.html",
        path,
        title=title or f"{sides[0][1].model}{', before and after' if len(sides) > 1 else ''}",
        verdict=[*verdict(sides[-1][1], modes[-1]), *next_steps(sides[-1][1], modes[-1])],
        picture=hoyer_picture(),
        findings=_findings(sides, names, modes),
        modes=modes,
        comparison=len(sides) > 1,
        several=len(set(depths)) > 1,
        units=units,
        histograms=all(record.histogram for _, _, of in sides for record in of),
        history=steps,
        header=columns.header(),
        rows=[columns.row(depths[i], [of[i] for _, _, of in sides]) for i in order],
        layers=order,
        most_remarks=MOST_REMARKS,
        remarks=_remarks(sides) + (shown.remarks() if isinstance(shown, Comparison) else []),
        settings=_settings(sides[-1][1]),
        provenance={" ".join(filter(None, ("Provenance", label))): summary.provenance for label, summary, _ in sides},
        data={
            "measure": "hoyer" if "hoyer" in names else names[0] if names else None,
            "measures": {name: MEASURE_TITLES.get(name, f"fraction of {name}") for name in names},
            "modes": modes,
            "layers": layers_of(last, depths),
            "sides": [
                {"label": label, "records": [record_data(record, names, of is last) for record in of]} for label, _, of in sides
            ],
            "recorded": sides[-1][1].settings.samples > 0,
            "samples": samples_of(last, show),
            "history": steps,
            "step": "step",
        },
    )


def _depths(records: Sequence[LayerRecord]) -> list[int]:
    """Return the depth of each record's layer, from 1. A layer has the same depth in training and evaluation."""
    depths: dict[str, int] = {}
    return [depths.setdefault(record.name, len(depths) + 1) for record in records]


def _step(line: Mapping[str, Any]) -> dict[str, Any]:
    layers = {
        f"{layer['layer'] or '(model)'}" + (f" #{layer['call']}" if layer.get("call") else ""): layer for layer in line["layers"]
    }
    return {"step": line["step"], "layers": layers}


class _Columns:
    """The columns of the table: first what a narrow screen must show.

    Args:
        names: the measures.
        modes: whether the records have several modes.
        states: whether a layer has a problem.
    """

    def __init__(self, names: Sequence[str], modes: bool, states: bool) -> None:
        self._names, self._modes, self._states = names, modes, states

    def header(self) -> list[tuple[str, str]]:
        """Return the title and CSS class of each column."""
        first = [("layer", "text name"), *self._if_modes(("mode", "text"))]
        counts = [("units", "number"), ("vectors", "number"), ("#", "number")]
        measures = [(name, "number") for name in self._names]
        return [*first, *self._with_state(measures, ("problem", "text problem")), ("type", "text"), ("of", "text"), *counts]

    def row(self, depth: int, records: Sequence[LayerRecord]) -> list[Cell]:
        """Return the cells of a layer: of its record or, in a comparison, of its two records."""
        first, last = records[0], records[-1]
        types = text(first.type if first.type == last.type else f"{first.type} → {last.type}")
        measures = [_cell([record.measures().get(name) for record in records]) for name in self._names]
        counts = [number(last.units, "{:d}"), number(last.vectors, "{:d}"), number(depth)]
        own = [text(first.name), *self._if_modes(text(first.mode))]
        return [*own, *self._with_state(measures, text(state_of(last))), types, text(last.value), *counts]

    def _if_modes(self, column: Any) -> list[Any]:
        return [column] if self._modes else []

    def _with_state(self, measures: list[Any], column: Any) -> list[Any]:
        """Put the column of problems after the measures that matter most."""
        first = sum(name in FIRST for name in self._names)
        return [*measures[:first], *([column] if self._states else []), *measures[first:]]


def _cell(values: Sequence[float | None]) -> Cell:
    """Return a cell with one value, or with two values and their difference, by which the column then sorts."""
    if len(values) == 1:
        return number(values[0])
    before, after = values
    if before is None or after is None:
        return number(None)
    return Cell(f"{before:.3g} → {after:.3g} ({after - before:+.2g})", after - before)


def _findings(sides: Sides, names: Sequence[str], modes: Sequence[str]) -> list[str]:
    """Describe the Hoyer sparseness and the fraction of zeros in sentences, in the mode that the page shows first."""
    start = f"In {modes[-1]} mode, the" if len(modes) > 1 else "The"
    sentences = []
    for name in ("hoyer", "zeros"):
        rows = [
            row
            for row in zip(*(records for _, _, records in sides), strict=True)
            if row[0].mode == modes[-1] and not is_dead(row[-1])
        ]
        values = [([getattr(record, name) for record in row], row[0].name) for row in rows]
        known = [(row, label) for row, label in values if None not in row]
        if not known or name not in names:
            continue
        title, layers = f"{start} {MEASURE_TITLES[name]}", f"{len(known)} layer{'s' if len(known) > 1 else ''}"
        if len(sides) > 1:
            changes = [after - before for (before, after), _ in known]
            rising, falling = sum(change > 0 for change in changes), sum(change < 0 for change in changes)
            mean = statistics.fmean(changes)
            sentences.append(f"{title} rises in {rising} and falls in {falling} of {layers}; the mean change is {mean:+.3g}.")
        else:
            low, high, mean = min(known), max(known), statistics.fmean(row[0] for row, _ in known)
            ends = f"from {low[0][0]:.3g} ({low[1]}) to {high[0][0]:.3g} ({high[1]})"
            sentences.append(f"{title} is {mean:.3g} on average over {layers}, {ends}.")
    return sentences


def _settings(summary: Summary) -> dict[str, str]:
    settings = summary.settings
    facts = {"model": summary.model, "measures": ", ".join(settings.measures)}
    if settings.thresholds:
        facts["thresholds"] = ", ".join(f"{threshold:g}" for threshold in settings.thresholds)
    facts["forward passes"] = "; ".join(
        f"{counts['measured']} of {counts['seen']} in {mode}" for mode, counts in summary.forwards.items()
    )
    facts["repeated calls of a layer"] = f"counted {settings.calls}"
    dims = {", ".join(map(str, record.unit_dim)) for record in summary.layers}
    return facts | {"dimension that holds the units": "; ".join(sorted(dims))}


def _remarks(sides: Sides) -> list[str]:
    """Return the remarks on each side; a remark on both sides appears once."""
    own = [summary.remarks() for _, summary, _ in sides]
    shared = [line for line in own[0] if line in own[-1]]
    labelled = [(label, line) for (label, _, _), lines in zip(sides, own, strict=True) for line in lines if line not in shared]
    return shared + [f"{label}: {line}" for label, line in labelled]
