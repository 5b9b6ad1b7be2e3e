"""Prediction compared with ridge, lasso and Dropout at equal tuning effort: equal grid sizes, folds and test sets."""

from __future__ import annotations

import functools
import math
import statistics
import warnings
from collections.abc import Callable
from typing import Any

import numpy
import scipy.stats
from matplotlib import colormaps
from msgspec import UNSET, Struct, UnsetType
from rich.table import Table
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Lasso, LogisticRegression, Ridge
from sklearn.metrics import log_loss, mean_squared_error
from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sparseout.glm import SparseoutClassifier, SparseoutRegressor
from sparseout.records.schema import Count, Record, Share
from sparseout.studies.glm import data
from sparseout.studies.glm.figures import LABELS, table

BUNDLED = ("breast cancer", "diabetes", "digits")
SEEDS = range(10)
FOLDS = 3
PS, QS = (0.02, 0.1, 0.3, 0.6), (0.5, 1.0, 2.0, 3.0)
POINTS = len(PS) * len(QS)
STRENGTHS = numpy.geomspace(1e-4, 1e2, POINTS).tolist()
METHODS = ("sparseout", "dropout", "ridge", "lasso")


class Row(Struct):
    """A row of the experiment's file."""

    part: str
    data: str
    seed: Count
    method: str
    loss: float
    chosen: dict[str, float]
    train: Count
    test: Count
    accuracy: Share | UnsetType = UNSET
    coef_error: float | UnsetType = UNSET


def parts() -> dict[str, Callable[[], list[Record]]]:
    """Return a part for each data set and seed."""
    return {f"{name} {seed}": functools.partial(measure, name, seed) for seed in SEEDS for name in (*BUNDLED, *data.SYNTHETIC)}


def measure(name: str, seed: int) -> list[Record]:
    """Return a row for each method: its test `loss`, log loss or mean squared error, at the cross-validated parameters.

    Bundled features are standardised. Synthetic ones are not, because the experiment is about their magnitudes.
    """
    train, test = data.split(name, seed)
    rows = []
    for method in METHODS:
        search = tuned(method, train, seed, scaled=name in BUNDLED)
        row = {"data": name, "seed": seed, "method": method, **_losses(search, test), "chosen": search.best_params_}
        if train.coef is not None:
            row["coef_error"] = _coef_error(search.best_estimator_[-1].coef_, train)
        rows.append({**row, "train": len(train.y), "test": len(test.y)})
    return rows


def tuned(method: str, train: data.Data, seed: int, scaled: bool) -> GridSearchCV:
    """Return the method, cross-validated over `POINTS` grid points and refitted to all training data."""
    estimator, grid = _method(method, train)
    steps = [StandardScaler(), estimator] if scaled else [estimator]
    classes = train.family != "gaussian"
    folds = (StratifiedKFold if classes else KFold)(FOLDS, shuffle=True, random_state=seed)
    score = "neg_log_loss" if classes else "neg_mean_squared_error"
    name = type(estimator).__name__.lower()
    search = GridSearchCV(
        make_pipeline(*steps), {f"{name}__{key}": values for key, values in grid.items()}, scoring=score, cv=folds
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # separable classes have no minimum without enough penalty
        return search.fit(train.X, train.y)


def _method(name: str, train: data.Data) -> tuple[Any, dict[str, Any]]:
    """Return an estimator and its grid of `POINTS` points."""
    classes = train.family != "gaussian"
    if name in ("sparseout", "dropout"):
        # Log-spaced in the penalty's p / (1 - p).
        odds = numpy.geomspace(PS[0] / (1 - PS[0]) / 2, 9, POINTS)
        grid = {"p": PS, "q": QS} if name == "sparseout" else {"p": (odds / (1 + odds)).tolist()}
        return (SparseoutClassifier if classes else SparseoutRegressor)(q=2.0, tol=1e-3, max_iter=300), grid
    if classes:
        # scikit-learn before 1.8 needs the name of the penalty.
        named = {} if LogisticRegression().penalty == "deprecated" else {"penalty": "elasticnet"}
        way = {"l1_ratio": 1.0, "solver": "saga", **named} if name == "lasso" else {}
        return LogisticRegression(tol=1e-3, max_iter=300, **way), {"C": [1 / (each * len(train.y)) for each in STRENGTHS]}
    if name == "ridge":
        return Ridge(), {"alpha": [strength * len(train.y) for strength in STRENGTHS]}
    return Lasso(max_iter=10_000), {"alpha": STRENGTHS}


def _losses(search: GridSearchCV, test: data.Data) -> Record:
    if test.family == "gaussian":
        return {"loss": float(mean_squared_error(test.y, search.predict(test.X)))}
    return {
        "loss": float(log_loss(test.y, search.predict_proba(test.X))),
        "accuracy": float(numpy.mean(search.predict(test.X) == test.y)),
    }


def _coef_error(coef: Any, train: data.Data) -> float:
    """Return the relative distance from the true coefficients, in units of the features' standard deviations."""
    scale = train.X.std(0)
    return float(numpy.linalg.norm(scale * (coef - train.coef)) / numpy.linalg.norm(scale * train.coef))


def interval(rows: list[Record], name: str, method: str) -> tuple[float, float]:
    """Return the mean log ratio of the test loss to Dropout's in the same split, and half the width of its 95% interval.

    Because the splits of a data set overlap, the variance has the factor `1/seeds + test/train` instead of `1/seeds`.

    Source: Nadeau and Bengio (2003), *Inference for the generalization error*.
    """
    losses = {
        each: {row["seed"]: row["loss"] for row in rows if (row["data"], row["method"]) == (name, each)} for each in METHODS
    }
    ratios = [math.log(loss / losses["dropout"][seed]) for seed, loss in losses[method].items()]
    sizes = next(row for row in rows if row["data"] == name)
    enlarged = 1 / len(ratios) + (0 if name in data.SYNTHETIC else sizes["test"] / sizes["train"])
    quantile = scipy.stats.t.ppf(0.975, len(ratios) - 1)
    return statistics.fmean(ratios), float(quantile * statistics.stdev(ratios) * math.sqrt(enlarged))


def draw(rows: list[Record], figure: Any) -> None:
    """Draw the ratios of the test losses to Dropout's with their intervals, and the chosen values of `q`."""
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    names = [name for name in (*BUNDLED, *data.SYNTHETIC) if any(row["data"] == name for row in rows)]
    others = (("sparseout", "#2183b3"), ("ridge", "#66a182"), ("lasso", "#edae49"))
    for index, (method, colour) in enumerate(others):
        means, widths = zip(*(interval(rows, name, method) for name in names), strict=True)
        at = [number + 0.2 * (index - 1) for number in range(len(names))]
        left.errorbar(means, at, xerr=widths, fmt="o", markersize=5, color=colour, elinewidth=2, label=method)
    left.axvline(0, color="#808080", linewidth=1)
    left.set_yticks(range(len(names)), [LABELS[name] for name in names])
    left.invert_yaxis()
    left.set_xlabel("log(test loss / Dropout's): less is better; mean and 95% interval, paired")
    left.set_title("Prediction at equal tuning effort", loc="left", weight="bold")
    left.legend(frameon=False, fontsize=8, loc="lower left")
    start = [0] * len(names)
    for index, q in enumerate(QS):
        counts = [sum(_q(row) == q for row in rows if (row["data"], row["method"]) == (name, "sparseout")) for name in names]
        right.barh(
            range(len(names)), counts, left=start, color=colormaps["viridis"](0.9 * index / (len(QS) - 1)), label=f"q = {q:g}"
        )
        start = [before + count for before, count in zip(start, counts, strict=True)]
    right.set_yticks(range(len(names)), [])
    right.invert_yaxis()
    right.set_xlabel("splits")
    right.set_title("q that cross-validation chose", loc="left", weight="bold")
    right.legend(frameon=False, fontsize=8, ncols=len(QS), loc="upper center", bbox_to_anchor=(0.5, -0.15))


def _q(row: Record) -> float | None:
    """Return the chosen `q` of a row of Sparseout, None for other methods."""
    return next((value for name, value in row["chosen"].items() if name.endswith("__q")), None)


def summary(rows: list[Record]) -> Table:
    """Return a table of the mean test losses, with a row for each data set and a column for each method."""
    lines = []
    for name in dict.fromkeys(row["data"] for row in rows):
        losses = {method: [row["loss"] for row in rows if (row["data"], row["method"]) == (name, method)] for method in METHODS}
        lines.append([LABELS[name], *(f"{statistics.fmean(values):.4f}" if values else "" for values in losses.values())])
    return table(("data", *METHODS), lines, "Test loss: log loss, or mean squared error; means over the splits.")
