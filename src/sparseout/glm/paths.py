"""Coefficient paths over `p`, `q` or both. Each fit starts from the previous one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Literal, overload

import numpy
from sklearn.base import clone

from sparseout.glm import path_figure
from sparseout.glm.cross_validation import check_grid
from sparseout.glm.estimators import SparseoutClassifier, SparseoutRegressor
from sparseout.notebook import page, plural
from sparseout.progress import track

_SHOWN = 12  # columns of coefficients in a notebook's table


@dataclasses.dataclass(frozen=True, repr=False)
class Path:
    """The fits along a grid.

    Attributes:
        parameter: the varied parameter, `"p"` or `"q"`.
        grid: values of the parameter, in the order of the fits.
        coefs: coefficients, `(values, features)`, or `(values, classes, features)` for several classes or outputs.
        intercepts: intercepts, `(values,)`, or `(values, classes)` for several classes or outputs.
        n_iter: number of iterations of each fit.
        fixed: value of the other parameter.
        features: names of the features: those of the data frame, or `"x0"`, `"x1"` and so on.
        rows: names of the classes or outputs; `("",)` if there is a single one.
    """

    parameter: Literal["p", "q"]
    grid: Any
    coefs: Any
    intercepts: Any
    n_iter: Any
    fixed: float
    features: tuple[str, ...]
    rows: tuple[str, ...] = ("",)

    def names(self) -> list[str]:
        """Return the name of each coefficient: that of its feature, with its class or output if there are several."""
        return [f"{feature}, {row}" if row else feature for row in self.rows for feature in self.features]

    def columns(self) -> Any:
        """Return the coefficients as `(values, names)`, in the order of `names()`."""
        return self.coefs.reshape(len(self.grid), -1)

    def plot(self, axes: Any = None, limits: Sequence[float] | None = None) -> Any:
        """Plot each coefficient against the grid, with names at the largest ones and a dotted line at `q = 2`, which is Dropout.

        Args:
            axes: a matplotlib `Axes` to draw in. Default: the axes of a new figure.
            limits: the smallest and the largest coefficient to make room for. Default: those of this path.

        Returns:
            The figure. A notebook shows it.
        """
        if axes is None:
            axes = path_figure.new_figure().subplots()
        limits = limits or (self.coefs.min(), self.coefs.max())
        path_figure.draw_path(axes, self.parameter, self.grid, self.columns(), self.names(), limits)
        return axes.figure

    def __repr__(self) -> str:
        other = "p" if self.parameter == "q" else "q"
        low, high = self.grid.min(), self.grid.max()
        kinds = f" of {plural(len(self.rows), 'row')}" if len(self.rows) > 1 else ""
        coefficients = f"{plural(len(self.features), 'coefficient')}{kinds}"
        grid = f"{len(self.grid)} values of {self.parameter} in [{low:g}, {high:g}]"
        return f"Path of {coefficients} over {grid}, {other} = {self.fixed:g}"

    def _repr_html_(self) -> str:
        largest = abs(self.columns()).max(axis=0)
        shown = numpy.sort(numpy.argsort(-largest, kind="stable")[:_SHOWN])
        names = self.names()
        header = [self.parameter, *(names[i] for i in shown), "iterations"]
        lines = zip(self.grid, self.columns()[:, shown], self.n_iter, strict=True)
        rows = [[f"{value:g}", *(f"{coef:#.3g}" for coef in coefs), str(count)] for value, coefs, count in lines]
        notes = [f"the {_SHOWN} largest of {len(names)} coefficients"] if len(names) > _SHOWN else []
        return page([repr(self)], [header, *rows], notes, left=0)


@dataclasses.dataclass(frozen=True, repr=False)
class Paths(Sequence[Path]):
    """The fits over a grid of `p` and `q`: a `Path` over `q` for each `p`.

    Attributes:
        p_grid, q_grid: the grids.
        paths: the paths, in the order of `p_grid`.
    """

    p_grid: Any
    q_grid: Any
    paths: tuple[Path, ...]

    @property
    def coefs(self) -> Any:
        """The coefficients, `(values of p, values of q, features)`, with classes or outputs before the features."""
        return numpy.stack([each.coefs for each in self.paths])

    @property
    def intercepts(self) -> Any:
        """The intercepts, `(values of p, values of q)`, and classes or outputs."""
        return numpy.stack([each.intercepts for each in self.paths])

    @property
    def n_iter(self) -> Any:
        """The numbers of iterations, `(values of p, values of q)`."""
        return numpy.stack([each.n_iter for each in self.paths])

    def plot(self) -> Any:
        """Plot a panel for each `p`, with equal axes, and return the figure. A notebook shows it."""
        figure = path_figure.new_figure(len(self.paths))
        panels = figure.subplots(1, len(self.paths), sharey=True, squeeze=False)[0]
        for axes, each in zip(panels, self.paths, strict=True):
            each.plot(axes, (self.coefs.min(), self.coefs.max()))
            axes.set_title(f"p = {each.fixed:g}", loc="left")
            axes.label_outer()
        return figure

    def __getitem__(self, index: Any) -> Any:
        return self.paths[index]

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[Path]:
        return iter(self.paths)

    def __repr__(self) -> str:
        first = self.paths[0]
        return f"Paths over {len(self.p_grid)} values of p and {len(self.q_grid)} of q, {first.coefs[0].size} coefficients each"

    def _repr_html_(self) -> str:
        header = ["norm of the coefficients", *(f"q = {q:g}" for q in self.q_grid)]
        norms = [[f"{numpy.linalg.norm(coef):#.3g}" for coef in each.coefs] for each in self.paths]
        rows = [[f"p = {p:g}", *row] for p, row in zip(self.p_grid, norms, strict=True)]
        return page([repr(self)], [header, *rows], left=1)


@overload
def path(
    X: Any, y: Any, *, p_grid: Sequence[float], q_grid: None = ..., estimator: Any = ..., sample_weight: Any = ...
) -> Path: ...


@overload
def path(
    X: Any, y: Any, *, p_grid: None = ..., q_grid: Sequence[float], estimator: Any = ..., sample_weight: Any = ...
) -> Path: ...


@overload
def path(
    X: Any, y: Any, *, p_grid: Sequence[float], q_grid: Sequence[float], estimator: Any = ..., sample_weight: Any = ...
) -> Paths: ...


def path(
    X: Any,
    y: Any,
    *,
    p_grid: Sequence[float] | None = None,
    q_grid: Sequence[float] | None = None,
    estimator: SparseoutRegressor | SparseoutClassifier | None = None,
    sample_weight: Any = None,
) -> Path | Paths:
    """`coef(p)` over `p_grid`, `coef(q)` over `q_grid`, or `coef(p, q)` over both: the fitted coefficients at each point.

    Each fit starts from the coefficients of the previous one.

    Args:
        X: features, `(samples, features)`.
        y: targets, or labels for a classifier, `(samples,)`, or `(samples, outputs)`.
        p_grid: drop probabilities in [0, 1).
        q_grid: norms of at least 0. At least one of the grids is required.
        estimator: the estimator to clone, with all other parameters. Default: `SparseoutRegressor()`.
        sample_weight: `(samples,)`. Default: equal weights.

    Returns:
        A `Path`, or with both grids `Paths`, one over `q` for each `p`.

    Raises:
        ValueError: no grid is given, a grid is empty, or a value or the data is out of range.

    >>> X = numpy.array([[1.0, 2.0], [3.0, 1.0], [-1.0, 0.5], [2.0, -2.0]])
    >>> found = path(X, X @ [1.0, -1.0], p_grid=[0.0, 0.5], estimator=SparseoutRegressor(fit_intercept=False, tol=1e-8))
    >>> found
    Path of 2 coefficients over 2 values of p in [0, 0.5], q = 2
    >>> found.coefs.round(2)
    array([[ 1.  , -1.  ],
           [ 0.49, -0.49]])
    >>> path(X, X @ [1.0, -1.0], p_grid=[0.1, 0.5], q_grid=[1.0, 1.5, 2.0]).coefs.shape
    (2, 3, 2)
    """
    grids = {name: check_grid(f"{name}_grid", grid) for name, grid in (("p", p_grid), ("q", q_grid)) if grid is not None}
    if not grids:
        raise ValueError("p_grid, q_grid or both must be given, got none")
    model = clone(SparseoutRegressor() if estimator is None else estimator).set_params(warm_start=True)
    inner: Literal["p", "q"] = "q" if "q" in grids else "p"
    outer = grids["p"] if len(grids) == 2 else [None]
    points = [(each, value) for each in outer for value in grids[inner]]
    fits: list[tuple[Any, Any, int]] = []
    for each, value in track(points, "fits of the path"):
        model.set_params(**{inner: value} | ({} if each is None else {"p": each})).fit(X, y, sample_weight)
        single = numpy.ndim(model.coef_) == 2 and len(model.coef_) == 1
        fits.append((model.coef_[0] if single else model.coef_, numpy.squeeze(model.intercept_), model.n_iter_))
    rows = len(fits[0][0]) if numpy.ndim(fits[0][0]) == 2 else 0
    classes = getattr(model, "classes_", [f"output {k}" for k in range(rows)])
    features = tuple(getattr(model, "feature_names_in_", [f"x{j}" for j in range(model.n_features_in_)]))
    names = tuple(map(str, classes)) if rows else ("",)
    grid, length = numpy.array(grids[inner]), len(grids[inner])
    found = []
    for i, each in enumerate(outer):
        coefficients, intercepts, iterations = map(numpy.stack, zip(*fits[i * length : (i + 1) * length], strict=True))
        fixed = each if each is not None else model.q if inner == "p" else model.p
        found.append(Path(inner, grid, coefficients, intercepts, iterations, fixed=float(fixed), features=features, rows=names))
    return Paths(numpy.array(grids["p"]), grid, tuple(found)) if len(grids) == 2 else found[0]
