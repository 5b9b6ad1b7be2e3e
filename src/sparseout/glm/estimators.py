"""Scikit-learn estimators of generalized linear models with Sparseout on the features."""

from __future__ import annotations

import warnings
from typing import Any, get_args

import numpy
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import LabelEncoder
from sklearn.utils import check_random_state, compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, validate_data

from sparseout.checks import check_choice, check_q
from sparseout.glm import solvers
from sparseout.glm.base import Classifier, LinearPredictor, Method, Regressor, RegressorFamily, parameters
from sparseout.glm.penalty import check_p_below_1
from sparseout.glm.problem import Model, Problem


@parameters
class _Sparseout(LinearPredictor):
    """Base class of the two estimators: the noise, and the fit."""

    p: float = 0.5
    q: float = 2.0
    warm_start: bool = False

    def _solve(self, family: str, X: Any, y: Any, weights: Any, classes: int = 1, last: Any = None) -> tuple[Any, Any]:
        """Fit validated data, and return the coefficients `(classes, features)` and the intercepts `(classes,)`.

        `last` is the pair of the last fit, from which a warm start continues.
        """
        model = Model(family, check_p_below_1(self.p), check_q(self.q), self._at_least_0("alpha"), bool(self.fit_intercept))
        check_choice("method", self.method, get_args(Method))
        tol = self._at_least_0("tol")
        max_iter = self._max_iter()
        self._check_weighted(family, y[weights > 0])
        problem = Problem(model, X, y, weights, classes)
        start = None
        if last and last[0].shape == (classes, X.shape[1]):
            if not all(numpy.isfinite(values).all() for values in last):
                raise ValueError(
                    "coef_ and intercept_ must be finite with warm_start=True, got NaN or infinity: fit a clone of the estimator"
                )
            start = problem.start(*last)
        if self.method == "marginal":
            solution = solvers.marginal(problem, start, tol, max_iter)
        else:
            seed = check_random_state(self.random_state).randint(2**31 - 1)
            solution = solvers.stochastic(problem, problem.start() if start is None else start, tol, max_iter, seed)
        self.n_iter_: int = max(self.n_iter_, solution.iterations)
        coef, intercept = problem.parameters(solution.theta)
        if not (numpy.isfinite(coef).all() and numpy.isfinite(intercept).all()):
            sizes = f"|X| up to {abs(X).max():g} and |y| up to {abs(y).max():g}"
            raise ValueError(f"X and y must lead to finite coefficients, got {sizes}: scale the features or the targets")
        if solution.failure:
            warnings.warn(f"{type(self).__name__} did not converge: {solution.failure}.", ConvergenceWarning, stacklevel=3)
        return coef, intercept

    def _last(self) -> tuple[Any, Any] | None:
        """Return the coefficients and the intercepts of the last fit, a row each, for a warm start."""
        if not (self.warm_start and hasattr(self, "coef_")):
            return None
        return numpy.atleast_2d(self.coef_), numpy.atleast_1d(self.intercept_)

    def _weights(self, sample_weight: Any, X: Any) -> Any:
        weights = _check_sample_weight(sample_weight, X, dtype=numpy.float64)
        if weights.min() < 0 or not weights.max() > 0:
            raise ValueError(f"sample_weight must be nonnegative and not all zero, got a minimum of {weights.min():g}")
        return weights

    def _check_weighted(self, family: str, y: Any) -> None:
        """Raise if the targets with positive weight put the minimum at infinity."""
        if family == "poisson" and y.max() == 0:
            raise ValueError("y must not be 0 for all samples with positive weight, for the family 'poisson'")
        if family in ("bernoulli", "multinomial") and (y == y[0]).all():
            raise ValueError("y must have at least two classes among the samples with positive weight, got one class")


@parameters
class SparseoutRegressor(Regressor, _Sparseout):
    """Generalized linear model that minimizes `sum_i w_i (loss_i + penalty_i) / sum_i w_i + alpha/2 |coef|^2`.

    `sparseout.glm.expected_loss` documents the losses, and `sparseout.glm.penalty` the penalty. The features are neither centered
    nor scaled, although `|x|^q` depends on their scale. The intercept gets no noise.

    Args:
        family: `"gaussian"` (identity link), `"poisson"` or `"gamma"` (log link).
        p: drop probability in [0, 1).
        q: norm of the penalty, at least 0; 2 is Dropout.
        method: `"marginal"` minimizes the objective above without sampling, by L-BFGS, or by conjugate gradients for the Gaussian
            family. `"stochastic"` trains on minibatches of 32 with noise from `sparseout.sparseout`. It approaches the minimum of
            the exact expected loss, which is the same minimum for the Gaussian family.
        alpha: weight of the ridge penalty, at least 0.
        fit_intercept: whether to fit an intercept.
        tol: tolerance. `"marginal"` stops when no component of the gradient exceeds it, in units in which the curvature is about
            1; for the Gaussian family, when the norm of the gradient is at most `1e-4 tol`. `"stochastic"` stops when a pass
            changes the average of the iterates by a smaller fraction.
        max_iter: maximum number of iterations, or of passes over the samples.
        warm_start: start from the coefficients of the last fit.
        random_state: seed of the noise and of the order of the samples, for `"stochastic"`.

    Attributes:
        coef_: coefficients, `(features,)`, or `(outputs, features)`.
        intercept_: intercept, a number, or `(outputs,)`.
        n_iter_: number of iterations, or of passes over the samples; the largest of all outputs.
        n_features_in_, feature_names_in_: as in every scikit-learn estimator.

    Raises:
        ValueError: a parameter or the data is out of range. Targets must be nonnegative for `"poisson"` and positive for
            `"gamma"`, and float64 must be able to hold `|X|^q` and the coefficients.

    Warns:
        ConvergenceWarning: the fit reached `max_iter`, no step lowers the objective, or the minimum lies at infinity. The
            objective is not convex in every family, so the minimum may be local.

    >>> import numpy
    >>> X = numpy.array([[1.0, 2.0], [3.0, 1.0], [-1.0, 0.5], [2.0, -2.0]])
    >>> model = SparseoutRegressor(p=0.2, q=1.0, fit_intercept=False).fit(X, X @ [1.0, -1.0])
    >>> model.coef_.round(3)
    array([ 0.892, -0.865])
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> SparseoutRegressor:
        """Fit the model.

        Args:
            X: features, `(samples, features)`, dense, sparse or a data frame.
            y: targets, `(samples,)`, or `(samples, outputs)` for the Gaussian family, which fits each output by itself.
            sample_weight: nonnegative weights, `(samples,)`. Default: equal weights.

        Returns:
            This estimator.
        """
        check_choice("family", self.family, get_args(RegressorFamily))
        several = self.family == "gaussian"
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=numpy.float64, y_numeric=True, multi_output=several)
        y = y.astype(numpy.float64)
        if self.family == "poisson" and (y.min() < 0 or y.max() == 0):
            raise ValueError(f"y must be nonnegative and not all 0 for the family 'poisson', got a minimum of {y.min():g}")
        if self.family == "gamma" and y.min() <= 0:
            raise ValueError(f"y must be positive for the family 'gamma', got a minimum of {y.min():g}")
        weights, last, self.n_iter_ = self._weights(sample_weight, X), self._last(), 0
        outputs = y[:, None] if y.ndim == 1 else y
        if last and len(last[0]) != outputs.shape[1]:
            last = None
        fits = [
            self._solve(self.family, X, output, weights, last=last and (last[0][i : i + 1], last[1][i : i + 1]))
            for i, output in enumerate(numpy.ascontiguousarray(outputs.T))
        ]
        coef, intercept = (numpy.concatenate(values) for values in zip(*fits, strict=True))
        self.coef_: Any = coef[0] if y.ndim == 1 else coef
        self.intercept_: Any = float(intercept[0]) if y.ndim == 1 else intercept
        return self


@parameters
class SparseoutClassifier(Classifier, _Sparseout):
    """Logistic regression that minimizes `sum_i w_i (loss_i + penalty_i) / sum_i w_i + alpha/2 |coef|^2`.

    The family is Bernoulli for two classes and multinomial for more. `sparseout.glm.penalty` documents the penalty. The objective
    is not convex: the factor `s (1 - s)` of the penalty vanishes for samples that are classified with certainty. For separable
    data the minimum may therefore lie at infinity, which causes a warning. `alpha > 0` makes the minimum finite.

    Args:
        class_weight: factors of the samples' weights: a mapping by label, or `"balanced"`, which gives all classes the same total
            weight. Default: 1 for each class.
        p, q, method, alpha, fit_intercept, tol, max_iter, warm_start, random_state: see `SparseoutRegressor`.

    Attributes:
        classes_: the labels.
        coef_: coefficients, `(1, features)` for two classes, `(classes, features)` for more.
        intercept_: intercepts, `(1,)` for two classes, `(classes,)` for more.
        n_iter_: number of iterations, or of passes over the samples.
        n_features_in_, feature_names_in_: as in every scikit-learn estimator.

    Raises:
        ValueError: a parameter or the data is out of range, or there are fewer than two classes.

    Warns:
        ConvergenceWarning: the fit reached `max_iter`, no step lowers the objective, or the minimum lies at infinity.

    >>> import numpy
    >>> X = numpy.array([[1.0, 2.0], [3.0, 1.0], [-1.0, 0.5], [2.0, -2.0]])
    >>> SparseoutClassifier(p=0.2, q=1.0, alpha=0.01).fit(X, ["a", "a", "b", "b"]).predict(X)
    array(['a', 'a', 'b', 'b'], dtype='<U1')
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> SparseoutClassifier:
        """Fit the model.

        Args:
            X: features, `(samples, features)`, dense, sparse or a data frame.
            y: labels, `(samples,)`.
            sample_weight: nonnegative weights, `(samples,)`. Default: equal weights.

        Returns:
            This estimator.
        """
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=numpy.float64)
        check_classification_targets(y)
        labels = LabelEncoder()
        y = labels.fit_transform(y).astype(numpy.float64)
        if len(labels.classes_) < 2:
            raise ValueError(f"y must have at least two classes, got one class: {labels.classes_[0]}")
        family, rows = ("bernoulli", 1) if len(labels.classes_) == 2 else ("multinomial", len(labels.classes_))
        weights = self._weights(sample_weight, X)
        weights = weights * self._weights_of_classes(labels.classes_, y, weights)[y.astype(int)]
        last, self.n_iter_ = self._last(), 0
        self.coef_, self.intercept_ = self._solve(family, X, y, weights, rows, last)
        self.classes_ = labels.classes_
        return self

    def _weights_of_classes(self, classes: Any, y: Any, weights: Any) -> Any:
        """Return the weight of each class."""
        if isinstance(self.class_weight, str) and self.class_weight == "balanced":
            sums = numpy.bincount(y.astype(int), weights, len(classes))
            return sums.sum() / (len(classes) * numpy.where(sums > 0, sums, numpy.inf))
        if self.class_weight is not None and not isinstance(self.class_weight, dict):
            raise ValueError(f"class_weight must be None, 'balanced' or a dict, got {self.class_weight!r}")
        return compute_class_weight(self.class_weight, classes=classes, y=classes)
