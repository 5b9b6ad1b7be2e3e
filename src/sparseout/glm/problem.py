"""The objective of the estimators, in units in which all parameters have about the same curvature."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy
import scipy.sparse
import torch
from torch import Tensor

from sparseout.glm.families import FAMILIES, Family, predictor
from sparseout.glm.penalty import odds, powers, second_order


@dataclasses.dataclass(frozen=True)
class Model:
    """The parameters of the model to fit: see `SparseoutRegressor`.

    Attributes:
        family: name of the family.
        p: drop probability.
        q: norm.
        alpha: weight of `|coef|^2 / 2`.
        fit_intercept: whether the model has an intercept.
    """

    family: str
    p: float
    q: float
    alpha: float
    fit_intercept: bool


class Problem:
    """`F = sum_i w_i (loss_i + penalty_i) + alpha/2 |coef|^2` as a function of scaled parameters `theta`.

    A row of `theta` holds the coefficients of a class and then its intercept, if the model has one, divided by `unit`. The
    curvature of `F / height` is about 1 in every component of `theta`, so step sizes and tolerances do not depend on the scale of
    the features or targets. Features and Gaussian targets whose squares would overflow or underflow are scaled by powers of two.

    Args:
        model: the parameters of the model.
        X: float64 features, `(samples, features)`, dense or sparse.
        y: float64 targets; class indices from 0 for a classifier.
        weight: nonnegative sample weights.
        classes: number of rows of `theta`: 1, or the number of classes for `"multinomial"`.
    """

    def __init__(self, model: Model, X: Any, y: Any, weight: Any, classes: int) -> None:
        self.model = model
        self.family: Family = FAMILIES[model.family]
        self.rows = scipy.sparse.csr_array(X) if scipy.sparse.issparse(X) else _writable(X)
        weight = weight / weight.max()
        self.weight = torch.from_numpy(weight / weight.sum())
        self.shape = (classes, X.shape[1] + model.fit_intercept)
        self.target = (
            _extreme(numpy.log2(abs(y).max(keepdims=True))) if model.family == "gaussian" and y.any() else numpy.zeros(1)
        )
        self.y = torch.from_numpy(_writable(numpy.ldexp(y, -self.target.astype(int)) if self.target.any() else y))
        mean = float(self.weight @ self.y)
        curvature = mean if model.family == "poisson" and mean > 0 else 1.0
        size = float((self.weight @ self.y.square()).sqrt()) if model.family == "gaussian" else 0.0
        self.exponents = _extreme(self._curvature_exponents(curvature))
        self.X = _tensor(self.rows)
        if self.exponents.any():
            self.X = _map_columns(self.X, lambda x, exponents: torch.ldexp(x, -exponents), self.exponents)
            self.power = _map_columns(self.X, self._powers, self.exponents)
        else:
            self.power = powers(self.X, model.q)
        if not _values(self.power).isfinite().all():
            raise ValueError(
                f"X must have finite |X|^q in float64, got |X| up to {abs(X).max():g} with q={model.q:g}: scale the features"
            )
        self.ridge = torch.from_numpy(numpy.ldexp(model.alpha, -2 * self.exponents.astype(int)))
        # In chunks of rows, because allocating memory for all squares takes longer than a fit.
        dense = self.X.layout == torch.strided
        parts = zip(self.X.split(1024), self.weight.split(1024), strict=True) if dense else [(self.X, self.weight)]
        square = torch.stack([powers(X, 2).T @ weight for X, weight in parts]).sum(0)
        root_curvature = (square + odds(model.p) * (self.power.T @ self.weight) + self.ridge / curvature).sqrt()
        root_curvature = torch.where(root_curvature > 0, root_curvature, 1.0)
        self.unit = (size or 1.0) / torch.cat([root_curvature, torch.ones(int(model.fit_intercept))])
        self.height = curvature * (size or 1.0) ** 2

    def start(self, coef: Any = None, intercept: Any = None) -> Tensor:
        """Return the `theta` of the given coefficients and intercepts.

        Without coefficients `theta` is zero, except for the intercept of a log link, which fits the mean of the targets.
        """
        theta = torch.zeros(self.shape, dtype=torch.float64)
        if coef is not None:
            theta[:, : self.X.shape[1]] = torch.from_numpy(numpy.ldexp(numpy.atleast_2d(coef), self._shift()))
            if self.model.fit_intercept:
                theta[:, -1] = torch.from_numpy(numpy.ldexp(numpy.atleast_1d(intercept), -self.target.astype(int)))
        elif self.model.fit_intercept and self.family.sign:
            theta[:, -1] = (self.weight @ self.y).clamp(min=torch.finfo(torch.float64).tiny).log()
        return theta / self.unit

    def parameters(self, theta: Tensor) -> tuple[Any, Any]:
        """Return the coefficients `(classes, features)` and the intercepts `(classes,)` for the original features and targets."""
        coef, intercept = (value.reshape(self.shape[0], -1).numpy() for value in self._scaled(theta))
        with numpy.errstate(over="ignore"):
            return numpy.ldexp(coef, -self._shift()), numpy.ldexp(intercept[:, 0], self.target.astype(int))

    def _scaled(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return the coefficients and intercepts for the scaled features: `(features,)` and 0-d except for `"multinomial"`."""
        theta = theta * self.unit
        coef = theta[:, : self.X.shape[1]]
        intercept = theta[:, -1] if self.model.fit_intercept else theta.new_zeros(len(theta))
        return (coef, intercept) if self.family.curvature is None else (coef[0], intercept[0])

    def marginal(self, theta: Tensor, y: Tensor | None = None) -> Tensor:
        """Return `F / height`, for the targets `y` if given."""
        y = self.y if y is None else y
        coef, intercept = self._scaled(theta)
        eta = predictor(self.X, coef, intercept)
        values = self.family.loss(eta, y) + second_order(self.family, eta, self.power, coef, odds(self.model.p), y)
        return (self.weight @ values + self._ridge(coef)) / self.height

    def losses(self, theta: Tensor) -> Tensor:
        """Return the losses of the samples with positive weight, without noise or penalty."""
        losses: Tensor = self.family.loss(predictor(self.X, *self._scaled(theta)), self.y)
        return losses[self.weight > 0]

    def noisy(self, theta: Tensor, batch: Tensor, noise: Any) -> Tensor:
        """Return an estimate of `F / height` from a batch, with the loss under `noise` instead of loss plus penalty."""
        coef, intercept = self._scaled(theta)
        rows = self.rows[batch.numpy()]
        rows = noise(torch.from_numpy(rows.toarray() if scipy.sparse.issparse(rows) else rows))
        if self.exponents.any():
            rows = torch.ldexp(rows, -torch.from_numpy(self.exponents))
        losses = self.family.loss(predictor(rows, coef, intercept), self.y[batch])
        return (len(self.y) / len(batch) * (self.weight[batch] @ losses) + self._ridge(coef)) / self.height

    def _ridge(self, coef: Tensor) -> Tensor:
        return (self.ridge * coef.square()).sum() / 2

    def _shift(self) -> Any:
        """Return the base-2 logarithm of each scaled coefficient relative to the original one."""
        return (self.exponents - self.target).astype(int)

    def _curvature_exponents(self, curvature: float) -> Any:
        """Return the approximate base-2 logarithm of the square root of the curvature in each coefficient, without overflow."""
        with numpy.errstate(divide="ignore", invalid="ignore"):  # for a feature that is zero everywhere
            size = numpy.log2(_largest(self.rows))
            noise = numpy.where(size > -numpy.inf, self.model.q * size / 2 + numpy.log2(odds(self.model.p)) / 2, -numpy.inf)
            exponents = numpy.maximum(numpy.maximum(size, noise), numpy.log2(self.model.alpha / curvature) / 2)
        return numpy.where(size > -numpy.inf, exponents, 0.0)

    def _powers(self, X: Tensor, exponents: Tensor) -> Tensor:
        """Return `|x|^q / 4^exponent` of the original features from the scaled ones `X`, through logarithms."""
        logarithm = self.model.q * X.abs().log2() + (self.model.q - 2) * exponents
        return torch.where(X == 0, 0.0, logarithm.exp2())


def _extreme(exponents: Any) -> Any:
    """Return the exponents whose squares approach the limits of float64, rounded, and 0 for all others."""
    return numpy.where(abs(exponents) > 200, numpy.clip(numpy.round(exponents), -1000, 1000), 0.0)


def _largest(X: Any) -> Any:
    """Return the largest `|x|` of each feature."""
    if scipy.sparse.issparse(X):
        return abs(X).max(axis=0).toarray().ravel()
    return numpy.maximum(X.max(axis=0), -X.min(axis=0))


def _map_columns(X: Tensor, function: Callable[[Tensor, Tensor], Tensor], columns: Any) -> Tensor:
    """Apply `function` to each element of `X` and the value of its column in `columns`, for dense and sparse `X`."""
    columns = torch.from_numpy(columns)
    if X.layout == torch.strided:
        return function(X, columns)
    values = function(X.values(), columns[X.indices()[1]])
    return torch.sparse_coo_tensor(X.indices(), values, X.shape, is_coalesced=True, check_invariants=False)


def _values(X: Tensor) -> Tensor:
    return X if X.layout == torch.strided else X.values()


def _writable(values: Any) -> Any:
    """Return a writable array, because torch warns when it shares a read-only one."""
    return numpy.require(values, requirements="W")


def _tensor(X: Any) -> Tensor:
    if not scipy.sparse.issparse(X):
        return torch.from_numpy(X)
    X = X.tocoo()
    indices = torch.from_numpy(numpy.stack([X.row, X.col]).astype(numpy.int64))
    return torch.sparse_coo_tensor(indices, torch.from_numpy(_writable(X.data)), X.shape, check_invariants=False).coalesce()
