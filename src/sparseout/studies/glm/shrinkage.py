"""Shrinkage by magnitude: the penalty on each feature over its magnitude, for `q` from 0.5 to 3."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy
import torch
from matplotlib import colormaps
from msgspec import UNSET, Struct, UnsetType
from rich.table import Table

from sparseout.glm import SparseoutRegressor, penalty
from sparseout.records.schema import Count, Norm, Positive, Record
from sparseout.studies.glm import data
from sparseout.studies.glm.approximation import slope
from sparseout.studies.glm.figures import table

P = 0.5
QS = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)


class Row(Struct):
    """A row of the experiment's file."""

    part: str
    data: str
    q: Norm
    feature: Count
    rms: Positive
    weight: float | UnsetType = UNSET
    relative: float | UnsetType = UNSET
    kept: float | UnsetType = UNSET
    predicted: float | UnsetType = UNSET


def parts() -> dict[str, Callable[[], list[Record]]]:
    """Return two parts: the penalties on the features of breast cancer in their own units, and fits to synthetic features."""
    return {"breast cancer": functools.partial(weights, "breast cancer"), "synthetic": fits}


def weights(name: str) -> list[Record]:
    """Return the weight of `coef_j^2 / 2` in the penalty, `p/(1-p) mean |x_j|^q`, alone and over the mean square."""
    X = torch.from_numpy(data.bundled(name).X)
    rows = []
    for q in QS:
        for feature, alone in enumerate(torch.eye(X.shape[1], dtype=X.dtype)):
            square = X[:, feature].square().mean().item()
            weight = 2 * penalty(X, alone, P, q, "gaussian").item()
            rows.append(
                {"data": name, "q": q, "feature": feature, "rms": square**0.5, "weight": weight, "relative": weight / square}
            )
    return rows


def fits(samples: int = 4000) -> list[Record]:
    """Return `kept = coef_j(p) / coef_j(0)` of equally important features of all magnitudes, and the `predicted` value."""
    random = numpy.random.default_rng(0)
    scale = numpy.geomspace(0.1, 10, 20)
    X = random.normal(size=(samples, 20)) * scale
    y = X @ (1 / scale) + random.normal(size=samples)
    square = (X**2).mean(0)

    def fit(p: float, q: float) -> Any:
        return SparseoutRegressor(p=p, q=q, fit_intercept=False, tol=1e-8).fit(X, y).coef_

    free = fit(0.0, 2.0)
    rows = []
    for q in QS:
        kept = fit(P, q) / free
        predicted = square / (square + P / (1 - P) * (abs(X) ** q).mean(0))
        for feature, (rms, left, alone) in enumerate(zip(square**0.5, kept, predicted, strict=True)):
            rows.append({"data": "synthetic", "q": q, "feature": feature, "rms": rms, "kept": left, "predicted": alone})
    return rows


def draw(rows: list[Record], figure: Any) -> None:
    """Draw the weights, the relative weights and the kept share of the coefficients over the magnitude of the features."""
    panels = figure.subplots(1, 3)
    titles = ("Penalty of a unit coefficient", "Penalty over mean square", "Coefficient left by the noise")
    for axes, title, measure in zip(panels, titles, ("weight", "relative", "kept"), strict=True):
        for index, q in enumerate(QS):
            here = _by_magnitude(rows, q, measure)
            colour, rms = colormaps["viridis"](0.9 * index / (len(QS) - 1)), [row["rms"] for row in here]
            line = "o" if measure == "kept" else "o-"
            axes.plot(rms, [row[measure] for row in here], line, markersize=4, color=colour, label=f"q = {q:g}")
            if measure == "kept":
                axes.plot(rms, [row["predicted"] for row in here], color=colour)
        axes.set(xscale="log", yscale="linear" if measure == "kept" else "log", xlabel="magnitude of the feature (RMS)")
        axes.set_title(title, loc="left", weight="bold")
    panels[0].legend(frameon=False, fontsize=8)
    panels[0].set_ylabel("breast cancer, its own units")
    panels[2].set_ylabel("fit / fit without noise, synthetic")
    panels[2].plot([], [], color="black", label="from the penalty alone")
    panels[2].legend(*([items[-1]] for items in panels[2].get_legend_handles_labels()), frameon=False, fontsize=8)


def _by_magnitude(rows: list[Record], q: float, measure: str) -> list[Record]:
    """Return the rows at `q` with the measure, by ascending magnitude of the feature."""
    return sorted((row for row in rows if row["q"] == q and measure in row), key=lambda row: float(row["rms"]))


def summary(rows: list[Record]) -> Table:
    """Return a table of the penalty's order in the magnitude and the kept share of the coefficients, for each `q`."""
    lines = []
    for q in QS:
        weighed, kept = _by_magnitude(rows, q, "weight"), _by_magnitude(rows, q, "kept")
        order = slope([row["rms"] for row in weighed], [row["weight"] for row in weighed])
        lines.append([f"{q:g}", f"{order:.2f}", f"{kept[0]['kept']:.2f}", f"{kept[-1]['kept']:.2f}"])
    caption = "Order of the penalty in a feature's magnitude, and the share of a coefficient that is left."
    return table(("q", "order", "left at 0.1", "left at 10"), lines, caption)
