"""Coefficient paths over `p` or `q`. Each fit starts from the previous one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy
from sklearn.base import clone

from sparseout.glm.estimators import SparseoutClassifier, SparseoutRegressor


@dataclasses.dataclass(frozen=True)
class Path:
    """The fits along a grid.

    Attributes:
        parameter: the varied parameter, `"p"` or `"q"`.
        grid: values of the parameter, in the order of the fits.
        coefs: coefficients, `(values, features)`, or `(values, classes, features)` for more than two classes.
        intercepts: intercepts, `(values,)`, or `(values, classes)` for more than two classes.
        n_iter: number of iterations of each fit.
    """

    parameter: Literal["p", "q"]
    grid: Any
    coefs: Any
    intercepts: Any
    n_iter: Any

    def plot(self, axes: Any = None) -> Any:
        """Plot each coefficient against the grid, with a dotted line at `q = 2`, which is Dropout.

        Args:
            axes: a matplotlib `Axes`. Default: the axes of a new figure.

        Returns:
            The axes.
        """
        if axes is None:
            from matplotlib.figure import Figure

            axes = Figure(layout="constrained").subplots()
        order = self.grid.argsort()
        axes.plot(self.grid[order], self.coefs.reshape(len(self.grid), -1)[order])
        axes.axhline(0, color="#808080", linewidth=1)
        if self.parameter == "q" and self.grid.min() <= 2 <= self.grid.max():
            axes.axvline(2, color="#808080", linestyle=":", label="Dropout")
            axes.legend(frameon=False)
        axes.set(xlabel=self.parameter, ylabel="coefficient")
        return axes


def path(
    X: Any,
    y: Any,
    *,
    p_grid: Sequence[float] | None = None,
    q_grid: Sequence[float] | None = None,
    estimator: SparseoutRegressor | SparseoutClassifier | None = None,
    sample_weight: Any = None,
) -> Path:
    """`coef(p)` over `p_grid`, or `coef(q)` over `q_grid`: the fitted coefficients at each value of the grid.

    Each fit starts from the coefficients of the previous one.

    Args:
        X: features, `(samples, features)`.
        y: targets, or labels for a classifier, `(samples,)`.
        p_grid: drop probabilities in [0, 1).
        q_grid: norms of at least 0. Exactly one of `p_grid` and `q_grid` is required.
        estimator: the estimator to clone, with all other parameters. Default: `SparseoutRegressor()`.
        sample_weight: `(samples,)`. Default: equal weights.

    Returns:
        A `Path`.

    Raises:
        ValueError: both grids or none are given, the grid is empty, or a value or the data is out of range.

    >>> X = numpy.array([[1.0, 2.0], [3.0, 1.0], [-1.0, 0.5], [2.0, -2.0]])
    >>> path(X, X @ [1.0, -1.0], p_grid=[0.0, 0.5], estimator=SparseoutRegressor(fit_intercept=False, tol=1e-8)).coefs.round(2)
    array([[ 1.  , -1.  ],
           [ 0.49, -0.49]])
    """
    if (p_grid is None) == (q_grid is None):
        raise ValueError(f"exactly one of p_grid and q_grid must be given, got {'none' if p_grid is None else 'both'}")
    parameter: Literal["p", "q"] = "q" if p_grid is None else "p"
    grid = numpy.asarray(q_grid if p_grid is None else p_grid, dtype=numpy.float64)
    if grid.ndim != 1 or not len(grid):
        raise ValueError(f"{parameter}_grid must be a non-empty sequence of numbers, got shape {grid.shape}")
    model = clone(SparseoutRegressor() if estimator is None else estimator).set_params(warm_start=True)
    fits = []
    for value in grid:
        model.set_params(**{parameter: float(value)}).fit(X, y, sample_weight)
        single = numpy.ndim(model.coef_) == 2 and len(model.coef_) == 1
        fits.append((model.coef_[0] if single else model.coef_, numpy.squeeze(model.intercept_), model.n_iter_))
    return Path(parameter, grid, *(numpy.stack(values) for values in zip(*fits, strict=True)))
