"""The objective of the estimators, in units in which all parameters have about the same curvature."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy
import scipy.sparse
import torch
from torch import Tensor

from sparseout.glm.blocks import Blocks
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


class Evaluation(NamedTuple):
    """The objective at a point: its value, its flat gradient, and the losses of the best and the worst fitted sample."""

    value: float
    gradient: Any
    smallest_loss: float
    largest_loss: float


class Problem:
    """`F = sum_i w_i (loss_i + penalty_i) + alpha/2 |coef|^2` as a function of scaled parameters `theta`.

    A row of `theta` holds the coefficients of a class and then its intercept, if the model has one, divided by `unit`. The
    curvature of `F / objective_scale` is about 1 in every component of `theta`, so step sizes and tolerances do not depend on the
    scale of the features or targets. Features and Gaussian targets whose squares would overflow or underflow are scaled by powers
    of two.

    Args:
        model: the parameters of the model.
        X: float64 features, `(samples, features)`, dense or sparse.
        y: float64 targets; class indices from 0 for a classifier.
        weight: nonnegative sample weights.
        classes: number of rows of `theta`: 1, or the number of classes for `"multinomial"`.

    Attributes:
        X, y: the scaled features and targets.
        weight: sample weights with sum 1.
        feature_exponents, target_exponent: base-2 logarithms of the scales of the features and the targets; 0 if unscaled.
        objective_scale: scale of the objective.
        blocks: the sums over the samples of a dense `X` and a single predictor; None for others.
    """

    def __init__(self, model: Model, X: Any, y: Any, weight: Any, classes: int) -> None:
        self.model = model
        self.family: Family = FAMILIES[model.family]
        self.rows = scipy.sparse.csr_array(X) if scipy.sparse.issparse(X) else _writable(X)
        weight = weight / weight.max()
        self.weight = torch.from_numpy(weight / weight.sum())
        self.shape = (classes, X.shape[1] + model.fit_intercept)
        scalable = model.family == "gaussian" and y.any()
        self.target_exponent = _extreme(numpy.log2(abs(y).max(keepdims=True))) if scalable else numpy.zeros(1)
        self.y = torch.from_numpy(numpy.ldexp(y, -self.target_exponent.astype(int)))
        mean = float(self.weight @ self.y)
        curvature = mean if model.family == "poisson" and mean > 0 else 1.0
        size = float((self.weight @ self.y.square()).sqrt()) if model.family == "gaussian" else 0.0
        self.feature_exponents = _extreme(self._curvature_exponents(curvature))
        self.X = _tensor(self.rows)
        if self.feature_exponents.any():
            self.X = _map_columns(self.X, lambda x, exponents: torch.ldexp(x, -exponents), self.feature_exponents)
        self.ridge = torch.from_numpy(numpy.ldexp(model.alpha, -2 * self.feature_exponents.astype(int)))
        self.blocks: Blocks | None = None
        if self.X.layout == torch.strided and self.family.curvature is not None:
            self.blocks = Blocks(model.family, self.X.numpy(), self.weight.numpy(), self._write_powers)
        self._curvature, self._size = curvature, size or 1.0
        self.objective_scale = curvature * self._size**2

    @functools.cached_property
    def unit(self) -> Tensor:
        """The scale of the coefficients and the intercept."""
        if self.blocks is not None:
            square, noise = map(torch.from_numpy, self.blocks.moments())
        else:
            square, noise = powers(self.X, 2).T @ self.weight, self.power.T @ self.weight
        if not noise.isfinite().all():
            largest = f"|X| up to {abs(self.rows).max():g} with q={self.model.q:g}"
            raise ValueError(f"X must have finite |X|^q in float64, got {largest}: scale the features")
        root_curvature = (square + odds(self.model.p) * noise + self.ridge / self._curvature).sqrt()
        root_curvature = torch.where(root_curvature > 0, root_curvature, 1.0)
        return self._size / torch.cat([root_curvature, torch.ones(int(self.model.fit_intercept))])

    @functools.cached_property
    def power(self) -> Tensor:
        """`|X|^q` of the features, scaled as `X`."""
        if not self.feature_exponents.any():
            return powers(self.X, self.model.q)
        return _map_columns(self.X, self._powers, self.feature_exponents)

    def start(self, coef: Any = None, intercept: Any = None) -> Tensor:
        """Return the `theta` of the given coefficients and intercepts.

        Without coefficients `theta` is zero, except for the intercept of a log link, which fits the mean of the targets.
        """
        theta = torch.zeros(self.shape, dtype=torch.float64)
        if coef is not None:
            theta[:, : self.X.shape[1]] = torch.from_numpy(numpy.ldexp(numpy.atleast_2d(coef), self._shift()))
            if self.model.fit_intercept:
                theta[:, -1] = torch.from_numpy(numpy.ldexp(numpy.atleast_1d(intercept), -self.target_exponent.astype(int)))
        elif self.model.fit_intercept and self.family.sign:
            theta[:, -1] = (self.weight @ self.y).clamp(min=torch.finfo(torch.float64).tiny).log()
        return theta / self.unit

    def parameters(self, theta: Tensor) -> tuple[Any, Any]:
        """Return the coefficients `(classes, features)` and the intercepts `(classes,)` for the original features and targets."""
        coef, intercept = (value.reshape(self.shape[0], -1).numpy() for value in self._scaled(theta))
        with numpy.errstate(over="ignore"):
            return numpy.ldexp(coef, -self._shift()), numpy.ldexp(intercept[:, 0], self.target_exponent.astype(int))

    def _scaled(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return the coefficients and intercepts for the scaled features: `(features,)` and 0-d except for `"multinomial"`."""
        theta = theta * self.unit
        coef = theta[:, : self.X.shape[1]]
        intercept = theta[:, -1] if self.model.fit_intercept else theta.new_zeros(len(theta))
        return (coef, intercept) if self.family.curvature is None else (coef[0], intercept[0])

    def marginal(self, theta: Tensor, y: Tensor | None = None) -> Tensor:
        """Return `F / objective_scale`, for the targets `y` if given."""
        y = self.y if y is None else y
        coef, intercept = self._scaled(theta)
        eta = predictor(self.X, coef, intercept)
        values = self.family.loss(eta, y) + second_order(self.family, eta, self.power, coef, odds(self.model.p), y)
        return (self.weight @ values + self._ridge(coef)) / self.objective_scale

    def evaluate(self, theta: Any, y: Any = None) -> Evaluation:
        """Return `marginal` of a flat array and its gradient there, for the targets `y` if given."""
        y = self.y.numpy() if y is None else y
        if self.blocks is None:
            return self._differentiate(torch.from_numpy(theta).reshape(self.shape), torch.from_numpy(y))
        scaled, features = theta * self.unit.numpy(), self.X.shape[1]
        return self.evaluate_coefficients(scaled[:features], float(scaled[features:].sum()), y)

    def evaluate_coefficients(self, coef: Any, intercept: float, y: Any = None) -> Evaluation:
        """Return the same at scaled coefficients. The first pass over the samples also yields the moments that `unit` needs."""
        assert self.blocks is not None
        sums = self.blocks.sums(coef, intercept, self.y.numpy() if y is None else y, odds(self.model.p))
        ridge = self.ridge.numpy() * coef
        gradient = numpy.append(sums.coef + ridge, [sums.intercept] * self.model.fit_intercept) * self.unit.numpy()
        value = sums.value + float(ridge @ coef) / 2
        return Evaluation(value / self.objective_scale, gradient / self.objective_scale, sums.smallest_loss, sums.largest_loss)

    def hessian(self, theta: Any) -> Any:
        """Return the second derivatives of `marginal` at a flat array, for a problem with `blocks`."""
        assert self.blocks is not None
        features, unit = self.X.shape[1], self.unit.numpy()
        scaled = theta * unit
        intercept = float(scaled[features:].sum())
        result = self.blocks.hessian(scaled[:features], intercept, self.y.numpy(), odds(self.model.p))
        result[range(features), range(features)] += self.ridge.numpy()
        result = result[: len(unit), : len(unit)]
        return unit[:, None] * result * unit / self.objective_scale

    def sample(self, step: int) -> Problem | None:
        """Return the problem of every `step`-th sample, or None if their targets put the minimum at infinity."""
        y, weight = numpy.ldexp(self.y.numpy()[::step], self.target_exponent.astype(int)), self.weight.numpy()[::step]
        weighted = y[weight > 0]
        if not len(weighted) or weighted.min() == weighted.max():
            return None
        return Problem(self.model, self.rows[::step], y, weight, self.shape[0])

    def _differentiate(self, theta: Tensor, y: Tensor) -> Evaluation:
        theta = theta.clone().requires_grad_()
        value = self.marginal(theta, y)
        (gradient,) = torch.autograd.grad(value, theta)
        losses = self.losses(theta.detach())
        return Evaluation(value.item(), gradient.flatten().numpy(), float(losses.min()), float(losses.max()))

    def losses(self, theta: Tensor) -> Tensor:
        """Return the losses of the samples with positive weight, without noise or penalty."""
        losses: Tensor = self.family.loss(predictor(self.X, *self._scaled(theta)), self.y)
        return losses[self.weight > 0]

    def noisy(self, theta: Tensor, batch: Tensor, noise: Any) -> Tensor:
        """Return an estimate of `F / objective_scale` from a batch, with the loss under `noise` instead of loss plus penalty."""
        coef, intercept = self._scaled(theta)
        rows = self.rows[batch.numpy()]
        rows = noise(torch.from_numpy(rows.toarray() if scipy.sparse.issparse(rows) else rows))
        if self.feature_exponents.any():
            rows = torch.ldexp(rows, -torch.from_numpy(self.feature_exponents))
        losses = self.family.loss(predictor(rows, coef, intercept), self.y[batch])
        return (len(self.y) / len(batch) * (self.weight[batch] @ losses) + self._ridge(coef)) / self.objective_scale

    def _ridge(self, coef: Tensor) -> Tensor:
        return (self.ridge * coef.square()).sum() / 2

    def _shift(self) -> Any:
        """Return the base-2 logarithm of each scaled coefficient relative to the original one."""
        return (self.feature_exponents - self.target_exponent).astype(int)

    def _curvature_exponents(self, curvature: float) -> Any:
        """Return the approximate base-2 logarithm of the square root of the curvature in each coefficient, without overflow."""
        with numpy.errstate(divide="ignore", invalid="ignore"):  # for a feature that is zero everywhere
            size = numpy.log2(_largest(self.rows))
            noise = numpy.where(size > -numpy.inf, self.model.q * size / 2 + numpy.log2(odds(self.model.p)) / 2, -numpy.inf)
            exponents = numpy.maximum(numpy.maximum(size, noise), numpy.log2(self.model.alpha / curvature) / 2)
        return numpy.where(size > -numpy.inf, exponents, 0.0)

    def _write_powers(self, X: Any, out: Any) -> None:
        """Write `|x|^q` of a block of the scaled features to `out`."""
        q = self.model.q
        if self.feature_exponents.any():
            out[:] = self._powers(torch.from_numpy(X), torch.from_numpy(self.feature_exponents)).numpy()
            return
        numpy.abs(X, out=out)
        if q == 0:
            numpy.sign(out, out=out)
        elif q == 1.5:  # faster than the general power, as is the next case
            out *= numpy.sqrt(out)
        elif q == 2:
            numpy.multiply(out, out, out=out)
        elif q != 1:
            numpy.power(out, q, out=out)

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


def _writable(values: Any) -> Any:
    """Return a writable array, because torch warns when it shares a read-only one."""
    return numpy.require(values, requirements="W")


def _tensor(X: Any) -> Tensor:
    if not scipy.sparse.issparse(X):
        return torch.from_numpy(X)
    X = X.tocoo()
    indices = torch.from_numpy(numpy.stack([X.row, X.col]).astype(numpy.int64))
    return torch.sparse_coo_tensor(indices, torch.from_numpy(_writable(X.data)), X.shape, check_invariants=False).coalesce()
