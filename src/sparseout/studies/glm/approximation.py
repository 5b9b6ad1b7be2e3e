"""The error of the quadratic form against the exact expectation, for growing `p` and for shrinking coefficients."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy
import torch
from msgspec import UNSET, Struct, UnsetType
from rich.table import Table
from sklearn.linear_model import LogisticRegression, PoissonRegressor

from sparseout.glm import expected_loss, penalty
from sparseout.records.schema import Record, Share
from sparseout.studies.glm import data
from sparseout.studies.glm.figures import LABELS, table

Q = 1.5
DATA = ("counts", "breast cancer", "digits")
PS = tuple(numpy.geomspace(0.001, 0.9, 24).tolist())
T, P_OF_T = tuple((2.0 ** -numpy.arange(0, 11)).tolist()), 0.3
INTERCEPT = 1.0


class Row(Struct):
    """A row of the experiment's file."""

    part: str
    data: str
    family: str
    p: Share
    t: float
    quadratic: float
    exact: float
    intercept: float | UnsetType = UNSET


def parts() -> dict[str, Callable[[], list[Record]]]:
    """Return a part for each data set with growing `p`, and one with shrinking coefficients for the Bernoulli family."""
    return {**{name: functools.partial(over_p, name) for name in DATA}, "shrinking coefficients": over_t}


def over_p(name: str) -> list[Record]:
    """Return the noise's cost at the coefficients of a ridge fit without noise, in `quadratic` form and `exact`, for each `p`."""
    chosen = data.small(name)
    if chosen.family == "poisson":
        fit = PoissonRegressor(alpha=0.1, max_iter=1000).fit(chosen.X, chosen.y)
    else:
        fit = LogisticRegression(C=10 / len(chosen.y), max_iter=1000).fit(chosen.X, chosen.y)
    coef, intercept = torch.from_numpy(numpy.squeeze(fit.coef_)), torch.as_tensor(numpy.squeeze(fit.intercept_))
    return [{"data": name, "p": p, "t": 1.0, **_added(chosen, coef, intercept, p)} for p in PS]


def over_t() -> list[Record]:
    """Return the same for breast cancer with the coefficients times `t`, with a fixed intercept and without one."""
    chosen = data.small("breast cancer")
    coef = torch.from_numpy(LogisticRegression(C=10 / len(chosen.y)).fit(chosen.X, chosen.y).coef_[0])
    return [
        {
            "data": "breast cancer",
            "p": P_OF_T,
            "t": t,
            "intercept": b,
            **_added(chosen, t * coef, torch.tensor(b).double(), P_OF_T),
        }
        for b in (INTERCEPT, 0.0)
        for t in T
    ]


def _added(chosen: data.Data, coef: Any, intercept: Any, p: float) -> Record:
    X, y = torch.from_numpy(chosen.X), torch.from_numpy(chosen.y)
    exact, clean = (expected_loss(X, y, coef, each, Q, chosen.family, intercept).value for each in (p, 0.0))
    quadratic = penalty(X, coef, p, Q, chosen.family, intercept, y=y)
    return {"family": chosen.family, "quadratic": quadratic.item(), "exact": (exact - clean).item()}


def error(row: Record) -> float:
    """Return the absolute error of the quadratic form."""
    return float(abs(row["quadratic"] - row["exact"]))


def slope(x: list[float], y: list[float]) -> float:
    """Return the slope of a line fitted to points on log-log axes."""
    return float(numpy.polyfit(numpy.log(x), numpy.log(y), 1)[0])


def orders(rows: list[Record]) -> dict[str, float]:
    """Return the order of the error in `p <= 0.01` for each data set, and in `t <= 1/32` with and without an intercept."""
    found = {}
    for name in DATA:
        small = [row for row in rows if row["data"] == name and "intercept" not in row and row["p"] <= 0.01]
        found[f"{LABELS[name]}, in p"] = slope([row["p"] for row in small], [error(row) for row in small])
    for b, words in ((INTERCEPT, "with an intercept"), (0.0, "without")):
        small = [row for row in rows if row.get("intercept") == b and row["t"] <= 1 / 32]
        found[f"Bernoulli, in t, {words}"] = slope([row["t"] for row in small], [error(row) for row in small])
    return found


def draw(rows: list[Record], figure: Any) -> None:
    """Draw the noise's cost over `p`, its error over `p`, and its error over `t`, with the fitted orders."""
    left, middle, right = figure.subplots(1, 3)
    fitted = orders(rows)
    for name, colour in zip(DATA, ("#2183b3", "#d1495b", "#66a182"), strict=True):
        here = [row for row in rows if row["data"] == name and "intercept" not in row]
        ps = [row["p"] for row in here]
        left.plot(ps, [row["exact"] for row in here], color=colour, linewidth=2, label=LABELS[name])
        left.plot(ps, [row["quadratic"] for row in here], "--", color=colour)
        order = fitted[f"{LABELS[name]}, in p"]
        middle.plot(
            ps, [error(row) for row in here], "o-", markersize=3, color=colour, label=f"{LABELS[name]}: order {order:.2f}"
        )
    for b, words, colour in ((INTERCEPT, "with an intercept", "#8d6a9f"), (0.0, "without", "#edae49")):
        here = [row for row in rows if row.get("intercept") == b]
        label = f"{words}: order {fitted[f'Bernoulli, in t, {words}']:.2f}"
        right.plot([row["t"] for row in here], [error(row) for row in here], "o-", markersize=3, color=colour, label=label)
    left.plot([], [], "--", color="black", label="quadratic form")
    left.set(xscale="log", yscale="log", xlabel="p", ylabel="added to the mean loss")
    left.set_title("Exact expectation and quadratic form", loc="left", weight="bold")
    middle.set(xscale="log", yscale="log", xlabel="p", ylabel="|quadratic - exact|")
    middle.set_title("Error at fixed coefficients", loc="left", weight="bold")
    right.set(xscale="log", yscale="log", xlabel="t: coefficients times t", ylabel="|quadratic - exact|")
    right.set_title(f"Bernoulli error at p = {P_OF_T}", loc="left", weight="bold")
    for axes in (left, middle, right):
        axes.legend(frameon=False, fontsize=8)


def summary(rows: list[Record]) -> Table:
    """Return a table of the fitted orders."""
    caption = "Order of the quadratic form's error, fitted on log-log axes."
    return table(("error", "order"), [[name, f"{order:.2f}"] for name, order in orders(rows).items()], caption)
