"""What the estimators minimise, in units in which every feature is about equally steep."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy
import scipy.sparse
import torch
from torch import Tensor

from sparseout.glm.families import FAMILIES, Family, predictor
from sparseout.glm.penalty import odds, powers, second_order


@dataclasses.dataclass(frozen=True)
class Model:
    """What to fit: see `SparseoutRegressor`.

    Attributes:
        family: its name.
        p: drop probability.
        q: norm.
        alpha: weight of `|coef|^2 / 2`.
        fit_intercept: whether there is an intercept.
    """

    family: str
    p: float
    q: float
    alpha: float
    fit_intercept: bool


class Problem:
    """`F = sum_i w_i (loss_i + penalty_i) + alpha/2 |coef|^2` over the coefficients in the problem's own units.

    A row of `theta` holds a class's coefficients and last, if there is one, its intercept, all multiplied by `1 / unit`: the
    curvature of `F / height` in each of them is then about 1, so that neither the scale of a feature nor that of the targets
    matters to a step or a tolerance.

    Args:
        model: what to fit.
        X: float64 features, `(samples, features)`, dense or sparse.
        y: float64 targets; classes are numbered from 0.
        weight: of the samples, not negative.
        classes: rows of `theta`: 1 but for `"multinomial"`.
    """

    def __init__(self, model: Model, X: Any, y: Any, weight: Any, classes: int) -> None:
        self.model = model
        self.family: Family = FAMILIES[model.family]
        self.rows = scipy.sparse.csr_array(X) if scipy.sparse.issparse(X) else _writable(X)
        self.y = torch.from_numpy(_writable(y))
        self.weight = torch.from_numpy(weight / weight.sum())
        self.shape = (classes, X.shape[1] + model.fit_intercept)
        self.X = _tensor(self.rows)
        self.power = powers(self.X, model.q)
        mean = float(self.weight @ self.y)
        curvature = mean if model.family == "poisson" and mean > 0 else 1.0
        size = float((self.weight @ self.y.square()).sqrt()) if model.family == "gaussian" else 0.0
        # Rows at a time: fresh memory for all the squares would take longer than a fit.
        dense = self.X.layout == torch.strided
        parts = zip(self.X.split(1024), self.weight.split(1024), strict=True) if dense else [(self.X, self.weight)]
        square = torch.stack([powers(X, 2).T @ weight for X, weight in parts]).sum(0)
        steepness = (square + odds(model.p) * (self.power.T @ self.weight) + model.alpha / curvature).sqrt()
        steepness = torch.where(steepness > 0, steepness, 1.0)
        self.unit = (size or 1.0) / torch.cat([steepness, torch.ones(int(model.fit_intercept))])
        self.height = curvature * (size or 1.0) ** 2

    def start(self, coef: Any = None, intercept: Any = None) -> Tensor:
        """`theta` of given coefficients, or of none: zero, and the intercept that fits the mean where the link is the log."""
        theta = torch.zeros(self.shape, dtype=torch.float64)
        if coef is not None:
            theta[:, : self.X.shape[1]] = torch.from_numpy(numpy.atleast_2d(coef))
            if self.model.fit_intercept:
                theta[:, -1] = torch.from_numpy(numpy.atleast_1d(intercept))
        elif self.model.fit_intercept and self.family.sign:
            theta[:, -1] = (self.weight @ self.y).clamp(min=torch.finfo(torch.float64).tiny).log()
        return theta / self.unit

    def parameters(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """The coefficients and the intercept: `(features,)` and 0-d, or with the classes in front for `"multinomial"`."""
        theta = theta * self.unit
        coef = theta[:, : self.X.shape[1]]
        intercept = theta[:, -1] if self.model.fit_intercept else theta.new_zeros(len(theta))
        return (coef, intercept) if self.family.curvature is None else (coef[0], intercept[0])

    def marginal(self, theta: Tensor, y: Tensor | None = None) -> Tensor:
        """`F / height`, for other targets `y` if they are given."""
        y = self.y if y is None else y
        coef, intercept = self.parameters(theta)
        eta = predictor(self.X, coef, intercept)
        values = self.family.loss(eta, y) + second_order(self.family, eta, self.power, coef, odds(self.model.p), y)
        return (self.weight @ values + self._ridge(coef)) / self.height

    def noisy(self, theta: Tensor, batch: Tensor, noise: Any) -> Tensor:
        """`F / height` estimated from some samples, with the loss under `noise` in place of loss and penalty."""
        coef, intercept = self.parameters(theta)
        rows = self.rows[batch.numpy()]
        rows = noise(torch.from_numpy(rows.toarray() if scipy.sparse.issparse(rows) else rows))
        losses = self.family.loss(predictor(rows, coef, intercept), self.y[batch])
        return (len(self.y) / len(batch) * (self.weight[batch] @ losses) + self._ridge(coef)) / self.height

    def _ridge(self, coef: Tensor) -> Tensor:
        return self.model.alpha / 2 * coef.square().sum()


def _writable(values: Any) -> Any:
    """torch shares arrays that it may write to, and warns of others."""
    return numpy.require(values, requirements="W")


def _tensor(X: Any) -> Tensor:
    if not scipy.sparse.issparse(X):
        return torch.from_numpy(X)
    X = X.tocoo()
    indices = torch.from_numpy(numpy.stack([X.row, X.col]).astype(numpy.int64))
    return torch.sparse_coo_tensor(indices, torch.from_numpy(_writable(X.data)), X.shape, check_invariants=False).coalesce()
