"""The page of a study: each measure against q, over training, and by layer, with the table and the provenance of every run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sparseout.report import page
from sparseout.report.files import Location
from sparseout.report.page import Cell, number, text
from sparseout.report.settings import Series, Setting, finding, series, settings, varying
from sparseout.report.table import cells

PLOTS = {
    "hoyer": "Hoyer sparseness",
    "test_loss": "test loss",
    "perplexity": "perplexity",
    "accuracy": "accuracy",
    "zeros": "fraction of zeros",
    "rms": "RMS of the activations",
}
_RUNS = {"run": "text", "q": "number", "seed": "number", "test loss": "number", "Hoyer": "number", "all-zero vectors": "number"}
_ORIGIN = {"versions, machine, date": "text", "command": "text"}


def write_page(
    records: Sequence[Mapping[str, Any]], histories: Mapping[str, Sequence[Mapping[str, Any]]], path: Location
) -> None:
    """Write the page of a study's `records`, with each run's epochs from `histories`."""
    groups = settings(records)
    curves = series(groups)
    measures = {name: title for name, title in PLOTS.items() if any(name in record for record in records)}
    shared = {name: value for name, value in groups[0].values.items() if name not in ("q", *varying(groups))} if groups else {}
    layers = list(dict.fromkeys(layer for record in records for layer in record["layers"]))
    header, rows = cells(records)
    page.write(
        "study.html",
        path,
        title=f"Sparseout study: {shared.get('study', 'no runs')}",
        findings=[finding(curve) for curve in curves if curve.has_q],
        header=[(name, "text name" if name == "setting" else "number") for name in header],
        rows=[[_cell(cell) for cell in row] for row in rows],
        places=list(range(len(groups))),
        shared={name: value for name, value in shared.items() if name != "study"},
        runs_header=list((_RUNS | _ORIGIN).items()),
        runs=[_run(record) for record in records],
        layers=layers,
        data={
            "measures": measures,
            "layers": layers,
            "curves": [_curve(curve, measures) for curve in curves],
            "settings": [
                {"curve": i, **_setting(setting, curve, shade, len(curves) > 1, measures, layers, histories)}
                for i, curve in enumerate(curves)
                for setting, shade in zip(curve.settings, curve.shades, strict=True)
            ],
        },
    )


def _curve(curve: Series, measures: Mapping[str, str]) -> dict[str, Any]:
    return {
        "label": curve.label,
        "has_q": curve.has_q,
        "q": curve.q,
        "means": {name: curve.means(name) for name in measures},
        "spreads": {name: curve.spreads(name) for name in measures},
    }


def _setting(
    setting: Setting,
    curve: Series,
    shade: float,
    several: bool,
    measures: Mapping[str, str],
    layers: Sequence[str],
    histories: Mapping[str, Sequence[Mapping[str, Any]]],
) -> dict[str, Any]:
    short = f"q {setting.values['q']:g}" if curve.has_q else curve.label
    return {
        "short": short,
        "name": f"{short}, {curve.label}" if curve.has_q and several else short,
        "shade": shade if curve.has_q else None,
        "values": {measure: setting.mean(measure) for measure in measures},
        "layers": {layer: {m: setting.layer_mean(layer, m) for m in ("hoyer", "zeros", "rms")} for layer in layers},
        "profile": setting.profile(),
        "history": histories.get(str(setting.runs[0]["run"]), []),
    }


def _run(record: Mapping[str, Any]) -> list[Cell]:
    layers, origin = record["layers"].values(), record["provenance"]
    empty, vectors = (sum(layer[name] for layer in layers) for name in ("zero_vectors", "vectors"))
    return [
        text(record["run"]),
        number(record["q"], "{:g}"),
        number(record["seed"], "{:d}"),
        number(record["test_loss"], "{:.4f}"),
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
