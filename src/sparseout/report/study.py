"""The page of a study: score and sparsity against q and each other, by layer and over training, and what the data support."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sparseout.records.files import Location
from sparseout.records.identity import TARGET_FIELDS
from sparseout.report import page, statistics
from sparseout.report.page import Cell, number, text
from sparseout.report.settings import AXES, Curve, Setting, curves_of, finding, main_axis, settings, varying
from sparseout.report.table import cells

PLOTS = {
    "hoyer": "Hoyer sparseness",
    "test_loss": "test loss",
    "perplexity": "perplexity",
    "accuracy": "accuracy",
    "zeros": "fraction of zeros",
    "rms": "RMS of the activations",
}
_ORIGIN = {"versions, machine, date": "text", "command": "text"}
SETTINGS, RUNS = 200, 2000  # that a browser shows at once without delay


def write_page(
    records: Sequence[Mapping[str, Any]],
    histories: Mapping[str, Sequence[Mapping[str, Any]]],
    path: Location,
    left_out: Iterable[str] = (),
) -> None:
    """Write the page of a study's `records`, with each run's epochs from `histories`, of which it reads those that it shows.

    The page says what is `left_out`, which is read after the histories.
    """
    everything = settings(records)
    groups = everything[:SETTINGS]
    shown = [run for setting in groups for run in setting.runs]
    rows_of = [run for setting in groups for run in setting.runs[: max(1, RUNS // len(groups))]]
    curves = curves_of(groups)
    score = statistics.score_of(records)
    targets = ["target"] if any(curve.axis == "target_sparsity" for curve in curves) else []
    sentences = [comparison.sentence() for comparison in statistics.compare(everything, score)]
    measures = {name: title for name, title in PLOTS.items() if any(name in record for record in shown)}
    values = {name: value for group in groups for name, value in group.values.items()}
    shared = {name: value for name, value in values.items() if name not in (*AXES, *varying(groups))}
    driven = {name: shared.pop(name) for name in TARGET_FIELDS if name in shared}
    layers = list(dict.fromkeys(layer for record in shown for layer in record["layers"]))
    header, rows = cells(shown)
    named = [(setting["name"], of) for setting, of in zip(_names(curves), _of(curves), strict=True)]
    estimates_header, estimates = statistics.cells(named, score)
    page.write(
        "study.html",
        path,
        title=f"Sparseout study: {shared.get('study', 'no runs')}",
        findings=[finding(curve) for curve in curves if curve.axis],
        not_shown=_not_shown(len(everything) - len(groups), len(records) - len(rows_of), len(sentences) - SETTINGS),
        sentences=sentences[:SETTINGS],
        estimates_header=[(name, "number" if i else "text name") for i, name in enumerate(estimates_header)],
        estimates=[[_cell(cell) for cell in row] for row in estimates],
        header=[(name, "text name" if name == "setting" else "number") for name in header],
        rows=[[_cell(cell) for cell in row] for row in rows],
        places=list(range(len(groups))),
        shared={name: value for name, value in shared.items() if name != "study"},
        driven=driven,
        runs_header=[
            *(
                (name, "number" if name != "run" else "text")
                for name in ("run", "q", *targets, "seed", _title(score), "Hoyer", "all-zero vectors")
            ),
            *_ORIGIN.items(),
        ],
        runs=[_run(record, score, targets) for record in rows_of],
        names=[str(record["run"]) for record in rows_of],
        layers=layers,
        data={
            "measures": measures,
            "score": score,
            "axis": main_axis(curves),
            "axis_title": AXES[main_axis(curves)],
            "layers": layers,
            "curves": [_curve(curve, measures, score, {id(run) for run in rows_of}) for curve in curves],
            "settings": [
                {"curve": i, **name, **_setting(setting, curve, shade, measures, layers, histories)}
                for name, (i, curve, setting, shade) in zip(_names(curves), _places(curves), strict=True)
            ],
        },
        left_out=list(left_out),
    )


def _title(score: str) -> str:
    return statistics.TITLES[score]


def _not_shown(settings: int, runs: int, sentences: int) -> str:
    """What the page does not show, in a sentence."""
    counts = {"settings": settings, "runs": runs, "comparisons": sentences}
    text = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count > 0)
    return text and f"Not shown, to keep the page quick: {text}. `sparseout results` lists all."


def _places(curves: Sequence[Curve]) -> list[tuple[int, Curve, Setting, float]]:
    """Each setting with its curve and its shade."""
    return [
        (i, curve, setting, shade)
        for i, curve in enumerate(curves)
        for setting, shade in zip(curve.settings, curve.shades, strict=True)
    ]


def _of(curves: Sequence[Curve]) -> list[Setting]:
    return [setting for _, _, setting, _ in _places(curves)]


def _names(curves: Sequence[Curve]) -> list[dict[str, str]]:
    """What each setting is called, within its curve and among all."""
    names = []
    for _, curve, setting, _ in _places(curves):
        short = setting.name if curve.axis else curve.label
        names.append({"short": short, "name": f"{short}, {curve.label}" if curve.axis and len(curves) > 1 else short})
    return names


def _curve(curve: Curve, measures: Mapping[str, str], score: str, shown: set[int]) -> dict[str, Any]:
    estimates = [statistics.estimate(setting.each(score)) for setting in curve.settings]
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


def _run(record: Mapping[str, Any], score: str, targets: Sequence[str]) -> list[Cell]:
    """A row of the runs' table; a run that was driven shows the last `q`."""
    layers, origin = record["layers"].values(), record["provenance"]
    empty, vectors = (sum(layer[name] for layer in layers) for name in ("zero_vectors", "vectors"))
    return [
        text(record["run"]),
        number(record.get("control", record)["q"], "{:.4g}"),
        *(number(record.get("target_sparsity"), "{:g}") for _ in targets),
        number(record["seed"], "{:d}"),
        number(record.get(score), "{:.4f}"),
        number(record["hoyer"], "{:.4f}"),
        Cell(f"{empty} of {vectors}", empty),
        text(f"sparseout {origin['sparseout']}, torch {origin['torch']}, {origin['cpu']}, {origin['date']}"),
        text(origin["command"]),
    ]


def _cell(shown: str) -> Cell:
    """A cell of the settings' table, sorted by its number where it has one."""
    try:
        return Cell(shown, float(shown.split(" ± ")[0]))
    except ValueError:
        return Cell(shown, None if shown == "-" else shown)
