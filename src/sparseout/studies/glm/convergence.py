"""Convergence of stochastic training: its distance from the minimum of the exact expectation over its steps."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any, Literal

import numpy
import scipy.optimize
import torch
from msgspec import UNSET, Struct, UnsetType
from rich.table import Table
from sklearn.exceptions import ConvergenceWarning

from sparseout.glm import SparseoutClassifier, SparseoutRegressor, expected_loss
from sparseout.records.schema import Count, Positive, Record
from sparseout.studies.glm import data
from sparseout.studies.glm.figures import LABELS, table

P, Q = 0.5, 1.5
DATA = ("diabetes", "counts", "breast cancer", "digits")
SEEDS = range(2)
BATCH = 32  # as in the estimators
MAX_STEPS = 2**14


class Row(Struct):
    """A row of the experiment's file."""

    part: str
    data: str
    family: str
    solution: Literal["quadratic", "stochastic"]
    distance: Positive
    iterations: Count | UnsetType = UNSET
    seed: Count | UnsetType = UNSET
    step: Count | UnsetType = UNSET


def parts() -> dict[str, Callable[[], list[Record]]]:
    """Return a part for each data set."""
    return {name: functools.partial(measure, name) for name in DATA}


def measure(name: str, max_steps: int = MAX_STEPS) -> list[Record]:
    """Return the `distance` of each solution from the exact minimum, relative to its norm.

    The `solution` is `"quadratic"`, or `"stochastic"` at a `step`. Fits with one seed agree up to the end of the shorter one, so
    together they are the trajectory of the longest.
    """
    chosen = data.small(name)
    target = exact_minimum(chosen)
    steps_a_pass = -(-len(chosen.y) // BATCH)
    quadratic = estimator(chosen)
    there = {"distance": _distance(quadratic, chosen, target), "iterations": quadratic.n_iter_}
    rows: list[Record] = [{"data": name, "family": chosen.family, "solution": "quadratic", **there}]
    for seed in SEEDS:
        passes = 1
        while passes * steps_a_pass <= max_steps:
            fit = estimator(chosen, method="stochastic", tol=0, max_iter=passes, random_state=seed)
            here = {"seed": seed, "step": passes * steps_a_pass, "distance": _distance(fit, chosen, target)}
            rows.append({"data": name, "family": chosen.family, "solution": "stochastic", **here})
            passes *= 2
    return rows


def estimator(chosen: data.Data, **parameters: Any) -> SparseoutRegressor | SparseoutClassifier:
    """Return the estimator for the family of the data, with the experiment's `p` and `q`."""
    parameters = {"p": P, "q": Q, "tol": 1e-8, "max_iter": 1000, **parameters}
    if chosen.family == "bernoulli" or chosen.family == "multinomial":
        return SparseoutClassifier(**parameters)
    return SparseoutRegressor(family=chosen.family, **parameters)


def exact_minimum(chosen: data.Data) -> Any:
    """Return the minimum of the exact expectation, which is convex: coefficients and intercept, one row per class.

    The Gaussian expectation is the quadratic form, the Poisson's has a closed form, and the others are sums over all masks.
    """
    start = numpy.zeros((len(set(chosen.y)) if chosen.family == "multinomial" else 1, chosen.X.shape[1] + 1))
    X, y = torch.from_numpy(chosen.X), torch.from_numpy(chosen.y)

    def evaluate(flat: Any) -> tuple[float, Any]:
        theta = torch.from_numpy(flat.copy()).reshape(start.shape).requires_grad_()
        rows = theta if chosen.family == "multinomial" else theta[0]
        value = expected_loss(X, y, rows[..., :-1], P, Q, chosen.family, rows[..., -1]).value
        (gradient,) = torch.autograd.grad(value, theta)
        return value.item(), gradient.flatten().numpy()

    options = {"gtol": 1e-7, "ftol": 0.0, "maxiter": 10_000}
    found = scipy.optimize.minimize(evaluate, start.ravel(), jac=True, method="L-BFGS-B", options=options)
    return found.x.reshape(start.shape)


def _distance(fit: Any, chosen: data.Data, target: Any) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the trajectory consists of unfinished fits
        found = _parameters(fit.fit(chosen.X, chosen.y))
    return float(numpy.linalg.norm(found - target) / numpy.linalg.norm(target))


def _parameters(fit: Any) -> Any:
    return numpy.column_stack([numpy.atleast_2d(fit.coef_), numpy.atleast_1d(fit.intercept_)])


def draw(rows: list[Record], figure: Any) -> None:
    """Draw a panel for each data set: the trajectories, the quadratic form's distance, and the slope of 1 / sqrt(steps)."""
    panels = figure.subplots(1, len(DATA), sharey=True)
    for axes, name in zip(panels, DATA, strict=True):
        here = [row for row in rows if row["data"] == name]
        courses = [row for row in here if row["solution"] == "stochastic"]
        for seed in sorted({row["seed"] for row in courses}):
            course = [(row["step"], row["distance"]) for row in courses if row["seed"] == seed]
            axes.plot(
                *zip(*course, strict=True), "o-", markersize=3, color="#2183b3", alpha=0.7, label=None if seed else "stochastic"
            )
        for row in here:
            if row["solution"] == "quadratic" and row["distance"] > 1e-6:
                axes.axhline(row["distance"], color="#d1495b", linestyle="--", label="minimum of the quadratic form")
        steps = numpy.array(sorted({row["step"] for row in courses}), dtype=float)
        if len(steps):
            last = numpy.mean([row["distance"] for row in courses if row["step"] == steps[-1]])
            axes.plot(steps, last * (steps / steps[-1]) ** -0.5, ":", color="#808080", label="1 / sqrt(steps)")
        axes.set(xscale="log", yscale="log", xlabel="steps of 32 samples")
        axes.set_title(LABELS[name], loc="left", weight="bold")
        axes.legend(frameon=False, fontsize=8, loc="lower left")
    panels[0].set_ylabel("relative distance from the exact minimum")


def summary(rows: list[Record]) -> Table:
    """Return a table of the quadratic form's distance and the trajectories' first and last, as means over the seeds."""
    lines = []
    for name in DATA:
        here = [row for row in rows if row["data"] == name]
        courses = [row for row in here if row["solution"] == "stochastic"]
        steps = sorted({row["step"] for row in courses})
        ends = [numpy.mean([row["distance"] for row in courses if row["step"] == step]) for step in (steps[0], steps[-1])]
        quadratic = next(row["distance"] for row in here if row["solution"] == "quadratic")
        lines.append([LABELS[name], f"{quadratic:.2g}", f"{ends[0]:.2g}", f"{ends[1]:.2g}", str(steps[-1])])
    caption = "Distance from the minimum of the exact expectation, relative."
    return table(("data", "quadratic form", "after a pass", "at the end", "steps"), lines, caption)
