"""The report of a study: one HTML file with its plots, table and provenance inside."""

from __future__ import annotations

import importlib.resources
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparseout.report.figure import COLOURS, GREY
from sparseout.report.files import write_whole
from sparseout.report.settings import Series, Setting, finding, series, settings, varying
from sparseout.report.table import cells

if TYPE_CHECKING:
    import plotly.graph_objects as go

PLOTS = {
    "hoyer": "Hoyer sparseness",
    "test_loss": "test loss",
    "zeros": "fraction of zeros",
    "rms": "RMS of the activations",
}


def write_page(records: Sequence[Mapping[str, Any]], histories: Mapping[str, Sequence[Mapping[str, Any]]], path: Path) -> None:
    """Write a page that needs no network: each measure against `q`, sparseness over training, the table, the provenance."""
    import jinja2
    from plotly.offline import get_plotlyjs

    groups = settings(records)
    curves = series(groups)
    plots = [(f"{label} against q", _against_q(curves, measure, label)) for measure, label in PLOTS.items()]
    plots.append(("Activity of a sample's units, by rank", _profiles(curves)))
    plots.append(("Hoyer sparseness over training", _over_training(curves, histories)))
    header, rows = cells(records)
    common = groups[0].values if groups else {}
    template = importlib.resources.files("sparseout.report").joinpath("page.html").read_text()
    html = (
        jinja2.Environment(autoescape=True)
        .from_string(template)
        .render(
            study=common.get("study", "study"),
            findings=[finding(curve) for curve in curves if curve.has_q],
            plots=[
                (
                    title,
                    figure.to_html(full_html=False, include_plotlyjs=False, config={"displayModeBar": False, "responsive": True}),
                )
                for title, figure in plots
            ],
            plotlyjs=get_plotlyjs(),
            header=header,
            rows=rows,
            common={name: value for name, value in common.items() if name not in ("q", "study", *varying(groups))},
            records=records,
        )
    )
    write_whole(path, html.encode())


def _against_q(curves: Sequence[Series], measure: str, label: str) -> go.Figure:
    import plotly.graph_objects as go

    figure = _figure("q", label)
    colours = itertools.cycle(COLOURS)
    for curve in curves:
        means = curve.means(measure)
        if not curve.has_q:
            figure.add_hline(means[0], line_dash="dot", line_color=GREY, annotation_text=curve.label)
            continue
        colour = next(colours)
        bars = {"type": "data", "array": curve.spreads(measure), "thickness": 1.2}
        figure.add_trace(go.Scatter(x=curve.q, y=means, error_y=bars, name=curve.label, line_color=colour, mode="lines+markers"))
    return figure


def _profiles(curves: Sequence[Series]) -> go.Figure:
    """Each setting's activity from the most active unit of a sample to the least active one."""
    import plotly.graph_objects as go

    figure = _figure("units, most active first (%)", "magnitude / largest")
    for name, line, setting in _lines(curves):
        ranks, magnitudes = setting.profile()
        figure.add_trace(go.Scatter(x=ranks, y=magnitudes, name=name, line=line, mode="lines"))
    return figure


def _over_training(curves: Sequence[Series], histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> go.Figure:
    """The first seed of each setting: its sparseness after each epoch."""
    import plotly.graph_objects as go

    figure = _figure("epoch", PLOTS["hoyer"])
    for name, line, setting in _lines(curves):
        history = histories.get(str(setting.runs[0]["run"]), [])
        x, y = [line["epoch"] for line in history], [line["hoyer"] for line in history]
        figure.add_trace(go.Scatter(x=x, y=y, name=name, line=line, mode="lines"))
    return figure


def _lines(curves: Sequence[Series]) -> list[tuple[str, dict[str, str], Setting]]:
    """Each setting with a name and a line: dark to light as `q` rises along a curve, dashed from one curve to the next."""
    import plotly.colors

    several = sum(curve.has_q for curve in curves) > 1
    lines = []
    for curve, dash in zip(curves, itertools.cycle(("solid", "dot", "dash", "dashdot")), strict=False):
        for setting, shade in zip(curve.settings, plotly.colors.sample_colorscale("Viridis", curve.shades), strict=True):
            name = f"q {setting.values['q']:g}" + (f", {curve.label}" if several else "")
            colour = shade if curve.has_q else GREY
            lines.append((name if curve.has_q else curve.label, {"color": colour, "dash": dash}, setting))
    return lines


def _figure(x: str, y: str) -> go.Figure:
    import plotly.graph_objects as go

    grid = {"gridcolor": "rgba(128,128,128,0.25)", "zeroline": False}
    return go.Figure(
        layout={
            "xaxis": {"title": x, **grid},
            "yaxis": {"title": y, **grid},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"color": GREY, "family": "system-ui, sans-serif"},
            "margin": {"l": 60, "r": 20, "t": 20, "b": 50},
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom"},
            "height": 380,
        }
    )
