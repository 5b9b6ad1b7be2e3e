"""Coefficients along `p` or `q`, each fit started from the one before."""

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
        parameter: what varies, `"p"` or `"q"`.
        grid: its values, in the order of the fits.
        coefs: `(values, features)`, or `(values, classes, features)` for several classes.
        intercepts: `(values,)`, or `(values, classes)`.
        n_iter: iterations of each fit.
    """

    parameter: Literal["p", "q"]
    grid: Any
    coefs: Any
    intercepts: Any
    n_iter: Any

    def plot(self, axes: Any = None) -> Any:
        """Draw a line a coefficient against the grid, and a dotted line at `q = 2`, which is Dropout.

        Args:
            axes: matplotlib's, to draw on. Default: those of a new figure.

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
    """`coef(p)` over `p_grid`, or `coef(q)` over `q_grid`: the minimum at each value, found from the one before.

    Args:
        X: features, `(samples, features)`.
        y: targets, or labels for a classifier, `(samples,)`.
        p_grid: drop probabilities in [0, 1).
        q_grid: norms of at least 0. Exactly one of the grids must be given.
        estimator: with all other parameters; it is not changed. Default: `SparseoutRegressor()`, the Gaussian family.
        sample_weight: `(samples,)`. Default: equal weights.

    Returns:
        The coefficients, with `plot()`.

    Raises:
        ValueError: not exactly one grid is given, it is empty, or a value or the data is out of its domain.

    >>> X = numpy.array([[1.0, 2.0], [3.0, 1.0], [-1.0, 0.5], [2.0, -2.0]])
    >>> path(X, X @ [1.0, -1.0], p_grid=[0.0, 0.5], estimator=SparseoutRegressor(fit_intercept=False, tol=1e-8)).coefs.round(2)
    array([[ 1.  , -1.  ],
           [ 0.49, -0.49]])
    """
    if (p_grid is None) == (q_grid is None):
        raise ValueError("exactly one of p_grid and q_grid must be given")
    parameter: Literal["p", "q"] = "q" if p_grid is None else "p"
    grid = numpy.asarray(q_grid if p_grid is None else p_grid, dtype=numpy.float64)
    if grid.ndim != 1 or not len(grid):
        raise ValueError(f"{parameter}_grid must be a sequence of numbers, one at least, got the shape {grid.shape}")
    model = clone(SparseoutRegressor() if estimator is None else estimator).set_params(warm_start=True)
    fits = []
    for value in grid:
        model.set_params(**{parameter: float(value)}).fit(X, y, sample_weight)
        single = numpy.ndim(model.coef_) == 2 and len(model.coef_) == 1
        fits.append((model.coef_[0] if single else model.coef_, numpy.squeeze(model.intercept_), model.n_iter_))
    return Path(parameter, grid, *(numpy.stack(values) for values in zip(*fits, strict=True)))
