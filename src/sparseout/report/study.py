"""The page of a study: score and sparsity against q, by layer and over training, and comparisons with Dropout."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sparseout.records.choice import tuned_settings
from sparseout.records.files import Location
from sparseout.records.identity import TARGET_FIELDS
from sparseout.records.layer_record import MEASURE_TITLES
from sparseout.records.scores import title_of
from sparseout.report import page, statistics
from sparseout.report.equal_sparsity import compare_at_equal_sparsity, equal_sparsity_notes, equal_sparsity_table
from sparseout.report.methods_figure import plotted
from sparseout.report.page import Cell, number, text
from sparseout.report.settings import (
    AXES,
    Curve,
    Setting,
    curves_of,
    describe_curve,
    dial_of,
    dials_of,
    group_by_setting,
    main_axis,
    varying_names,
)
from sparseout.report.table import settings_table
from sparseout.report.tuning import tuning_curves, tuning_sentences, tuning_table

PLOTTED = ("hoyer", "test_loss", "perplexity", "accuracy", "zeros", "rms")
_ORIGIN = {"versions, machine, date": "text", "command": "text"}
_EQUAL_KINDS = {"against Sparseout": "text name", "at": "text", "verdict": "text"}
MAX_SETTINGS, MAX_RUNS = 200, 2000  # more would make the page slow


def write_page(
    records: Sequence[Mapping[str, Any]],
    histories: Mapping[str, Sequence[Mapping[str, Any]]],
    path: str | Location,
    left_out: Iterable[str] = (),
    choice: Mapping[str, Any] | None = None,
) -> None:
    """Write the page of a study's `records`.

    Args:
        records: the summaries of the runs.
        histories: the epochs of each run, by its `run`. Only those of the runs shown are read.
        path: the HTML file to write.
        left_out: one sentence for each folder or file that was left out. It is read after the histories.
        choice: what the tune stage chose; None for a study that was not tuned.
    """
    tuned = tuned_settings(choice)
    everything = group_by_setting(records, tuned)
    groups = everything[:MAX_SETTINGS]
    shown = [run for setting in groups for run in setting.runs]
    rows_of = [run for setting in groups for run in setting.runs[: max(1, MAX_RUNS // len(groups))]]
    curves = curves_of(groups)
    score = statistics.score_of(records, choice)
    dials = dials_of(shown)
    targets = ["target"] if any(curve.axis == "target_sparsity" for curve in curves) else []
    sentences = [comparison.sentence() for comparison in statistics.compare_with_dropout(everything, score)]
    own = [name for name in statistics.recorded_scores(records) if name not in PLOTTED]
    plotted_names = [name for name in (*PLOTTED[:4], *own, *PLOTTED[4:]) if any(name in record for record in shown)]
    measures = {name: MEASURE_TITLES.get(name, title_of(name)) for name in plotted_names}
    values = {name: value for group in groups for name, value in group.values.items()}
    shared = {name: value for name, value in values.items() if name not in (*AXES, *tuned, *varying_names(groups))}
    target_settings = {name: shared.pop(name) for name in TARGET_FIELDS if name in shared}
    layers = list(dict.fromkeys(layer for record in shown for layer in record["layers"]))
    header, rows = settings_table(shown, tuned)
    named = [(setting["name"], of) for setting, of in zip(_names(curves), _of(curves), strict=True)]
    estimates_header, estimates = statistics.estimates_table(named, score)
    comparisons = compare_at_equal_sparsity(records, score)
    tuning_panels = tuning_curves(choice) if choice else []
    equal_header, equal_rows = equal_sparsity_table(comparisons) if comparisons else ([], [])
    page.write(
        "study.html",
        path,
        title=f"Sparseout study: {shared.get('study', 'no runs')}",
        findings=[describe_curve(curve) for curve in curves if curve.axis],
        not_shown=_not_shown(len(everything) - len(groups), len(records) - len(rows_of), len(sentences) - MAX_SETTINGS),
        sentences=sentences[:MAX_SETTINGS],
        **_tuning(choice, records, tuning_panels),
        estimates_header=[(name, "number" if i else "text name") for i, name in enumerate(estimates_header)],
        estimates=[[_cell(cell) for cell in row] for row in estimates],
        equal_header=[(name, _EQUAL_KINDS.get(name, "number")) for name in equal_header],
        equal_rows=[[_cell(cell) for cell in row] for row in equal_rows],
        equal_notes=equal_sparsity_notes(records, comparisons),
        header=[(name, "text name" if name == "setting" else "number") for name in header],
        rows=[[_cell(cell) for cell in row] for row in rows],
        row_ids=list(range(len(groups))),
        shared={name: value for name, value in shared.items() if name != "study"},
        target_settings=target_settings,
        runs_header=[
            *(
                (name, "number" if name != "run" else "text")
                for name in ("run", *dials, *targets, "seed", title_of(score), "Hoyer", "all-zero vectors")
            ),
            *_ORIGIN.items(),
        ],
        runs=[_run(record, score, dials, targets) for record in rows_of],
        names=[str(record["run"]) for record in rows_of],
        layers=layers,
        data={
            "tuning": tuning_panels,
            "measures": measures,
            "score": score,
            "axis": main_axis(curves),
            "axis_title": AXES[main_axis(curves)],
            "layers": layers,
            "comparison": plotted(records, score),
            "curves": [_curve(curve, measures, score, {id(run) for run in rows_of}) for curve in curves],
            "settings": [
                {"curve": i, **name, **_setting(setting, curve, shade, measures, layers, histories)}
                for name, (i, curve, setting, shade) in zip(_names(curves), _with_curves(curves), strict=True)
            ],
        },
        left_out=list(left_out),
    )


def _tuning(
    choice: Mapping[str, Any] | None, records: Sequence[Mapping[str, Any]], panels: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the page's context for the tune stage; `tuning_rows` is empty for a study that was not tuned."""
    header, rows = tuning_table(choice) if choice else ([], [])
    return {
        "tuning_sentences": tuning_sentences(choice, records) if choice else [],
        "tuning_panels": [panel["name"] for panel in panels],
        "tuning_header": [(name, "number" if i in (1, 3) else "text") for i, name in enumerate(header)],
        "tuning_rows": [[_cell(cell) for cell in row] for row in rows],
    }


def _not_shown(settings: int, runs: int, sentences: int) -> str:
    """Return a sentence on what the page omits; empty if it shows everything."""
    counts = {"settings": settings, "runs": runs, "comparisons": sentences}
    text = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count > 0)
    return text and f"Omitted to keep the page fast: {text}. `sparseout results` lists everything."


def _with_curves(curves: Sequence[Curve]) -> list[tuple[int, Curve, Setting, float]]:
    """Return each setting with its curve and its shade."""
    return [
        (i, curve, setting, shade)
        for i, curve in enumerate(curves)
        for setting, shade in zip(curve.settings, curve.shades, strict=True)
    ]


def _of(curves: Sequence[Curve]) -> list[Setting]:
    return [setting for _, _, setting, _ in _with_curves(curves)]


def _names(curves: Sequence[Curve]) -> list[dict[str, str]]:
    """Return the name of each setting within its curve and among all settings."""
    names = []
    for _, curve, setting, _ in _with_curves(curves):
        short = setting.name if curve.axis else curve.label
        names.append({"short": short, "name": f"{short}, {curve.label}" if curve.axis and len(curves) > 1 else short})
    return names


def _curve(curve: Curve, measures: Mapping[str, str], score: str, shown: set[int]) -> dict[str, Any]:
    estimates = [statistics.estimate(setting.per_seed(score)) for setting in curve.settings]
    return {
        "label": curve.label,
        "axis": curve.axis,
        "names": [setting.name if curve.axis else "" for setting in curve.settings],
        "x": curve.x,
        "means": {name: curve.means(name) for name in measures},
        "spreads": {name: curve.spreads(name) for name in measures},
        "half": [found.high - found.mean for found in estimates],
        "points": [
            {"run": run["run"], "of": setting.name, "seed": run["seed"], "hoyer": run.get("hoyer"), "score": run.get(score)}
            for setting in curve.settings
            for run in setting.runs
            if id(run) in shown
        ],
    }


def _setting(
    setting: Setting,
    curve: Curve,
    shade: float,
    measures: Mapping[str, str],
    layers: Sequence[str],
    histories: Mapping[str, Sequence[Mapping[str, Any]]],
) -> dict[str, Any]:
    return {
        "shade": shade if curve.axis else None,
        "values": {measure: setting.mean(measure) for measure in measures},
        "layers": {layer: {m: setting.layer_mean(layer, m) for m in ("hoyer", "zeros", "rms")} for layer in layers},
        "profile": setting.profile(),
        "history": histories.get(str(setting.runs[0]["run"]), []),
    }


def _run(record: Mapping[str, Any], score: str, dials: Sequence[str], targets: Sequence[str]) -> list[Cell]:
    """Return a row of the table of runs. A run with a target shows the last value of its dial."""
    layers, origin = record["layers"].values(), record["provenance"]
    empty, vectors = (sum(layer[name] for layer in layers) for name in ("zero_vectors", "vectors"))
    return [
        text(record["run"]),
        *(number(dial_of(record).get(name), "{:.4g}") for name in dials),
        *(number(record.get("target_sparsity"), "{:g}") for _ in targets),
        number(record["seed"], "{:d}"),
        number(record.get(score), "{:.4f}"),
        number(record["hoyer"], "{:.4f}"),
        Cell(f"{empty} of {vectors}", empty),
        text(f"sparseout {origin['sparseout']}, torch {origin['torch']}, {origin['cpu']}, {origin['date']}"),
        text(origin["command"]),
    ]


def _cell(shown: str) -> Cell:
    """Return a cell of the table of settings, which sorts by its number if it has one."""
    try:
        return Cell(shown, float(shown.split(" ± ")[0]))
    except ValueError:
        return Cell(shown, None if shown == "-" else shown)
