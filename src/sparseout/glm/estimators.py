"""Scikit-learn estimators of generalized linear models with Sparseout on the features."""

from __future__ import annotations

import sys
import warnings
from typing import Any, Literal, get_args

import numpy
import scipy.special
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import LabelEncoder
from sklearn.utils import check_random_state
from sklearn.utils.extmath import safe_sparse_dot
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from sparseout.checks import check_choice, check_number, check_q
from sparseout.glm import solvers
from sparseout.glm.penalty import check_p_below_1
from sparseout.glm.problem import Model, Problem

Method = Literal["marginal", "stochastic"]
RegressorFamily = Literal["gaussian", "poisson", "gamma"]


class _SparseoutModel(BaseEstimator):  # type: ignore[misc]
    """Base class of the two estimators, with their parameters, the solver and the linear predictor."""

    def __init__(
        self,
        *,
        p: float = 0.5,
        q: float = 2.0,
        method: Method = "marginal",
        alpha: float = 0.0,
        fit_intercept: bool = True,
        tol: float = 1e-4,
        max_iter: int = 1000,
        warm_start: bool = False,
        random_state: Any = None,
    ) -> None:
        self.p = p
        self.q = q
        self.method = method
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.max_iter = max_iter
        self.warm_start = warm_start
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _solve(self, family: str, X: Any, y: Any, sample_weight: Any, classes: int = 1) -> tuple[Any, Any]:
        """Fit validated data, and return the coefficients `(classes, features)` and the intercepts `(classes,)`."""
        model = Model(family, check_p_below_1(self.p), check_q(self.q), self._at_least_0("alpha"), bool(self.fit_intercept))
        check_choice("method", self.method, get_args(Method))
        tol = self._at_least_0("tol")
        max_iter = self._max_iter()
        weights = self._weights(sample_weight, X)
        self._check_weighted(family, y[weights > 0])
        problem = Problem(model, X, y, weights, classes)
        warm = self.warm_start and hasattr(self, "coef_") and numpy.atleast_2d(self.coef_).shape == (classes, X.shape[1])
        if warm and not (numpy.isfinite(self.coef_).all() and numpy.isfinite(self.intercept_).all()):
            raise ValueError(
                "coef_ and intercept_ must be finite with warm_start=True, got NaN or infinity: fit a clone of the estimator"
            )
        start = problem.start(self.coef_, self.intercept_) if warm else problem.start()
        if self.method == "marginal":
            solution = solvers.marginal(problem, start, tol, max_iter)
        else:
            seed = check_random_state(self.random_state).randint(2**31 - 1)
            solution = solvers.stochastic(problem, start, tol, max_iter, seed)
        self.n_iter_ = solution.iterations
        coef, intercept = problem.parameters(solution.theta)
        if not (numpy.isfinite(coef).all() and numpy.isfinite(intercept).all()):
            sizes = f"|X| up to {abs(X).max():g} and |y| up to {abs(y).max():g}"
            raise ValueError(f"X and y must lead to finite coefficients, got {sizes}: scale the features or the targets")
        if solution.failure:
            warnings.warn(f"{type(self).__name__} did not converge: {solution.failure}.", ConvergenceWarning, stacklevel=3)
        return coef, intercept

    def _at_least_0(self, name: str) -> float:
        return check_number(name, getattr(self, name), 0.0, sys.float_info.max, "a finite number of at least 0")

    def _max_iter(self) -> int:
        allowed = "an integer of at least 1"
        number = check_number("max_iter", self.max_iter, 1, 2**31 - 1, allowed)
        if not number.is_integer():
            raise ValueError(f"max_iter must be {allowed}, got {self.max_iter!r}")
        return int(number)

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

    def _predictor(self, X: Any) -> Any:
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=numpy.float64, reset=False)
        return safe_sparse_dot(X, self.coef_.T, dense_output=True) + self.intercept_


class SparseoutRegressor(RegressorMixin, _SparseoutModel):  # type: ignore[misc]
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
        coef_: coefficients, `(features,)`.
        intercept_: intercept, a number.
        n_iter_: number of iterations, or of passes over the samples.
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

    def __init__(
        self,
        *,
        family: RegressorFamily = "gaussian",
        p: float = 0.5,
        q: float = 2.0,
        method: Method = "marginal",
        alpha: float = 0.0,
        fit_intercept: bool = True,
        tol: float = 1e-4,
        max_iter: int = 1000,
        warm_start: bool = False,
        random_state: Any = None,
    ) -> None:
        super().__init__(
            p=p,
            q=q,
            method=method,
            alpha=alpha,
            fit_intercept=fit_intercept,
            tol=tol,
            max_iter=max_iter,
            warm_start=warm_start,
            random_state=random_state,
        )
        self.family = family

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.positive_only = self.family != "gaussian"
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> SparseoutRegressor:
        """Fit the model.

        Args:
            X: features, `(samples, features)`, dense, sparse or a data frame.
            y: targets, `(samples,)`.
            sample_weight: nonnegative weights, `(samples,)`. Default: equal weights.

        Returns:
            This estimator.
        """
        check_choice("family", self.family, get_args(RegressorFamily))
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=numpy.float64, y_numeric=True)
        y = y.astype(numpy.float64)
        if self.family == "poisson" and (y.min() < 0 or y.max() == 0):
            raise ValueError(f"y must be nonnegative and not all 0 for the family 'poisson', got a minimum of {y.min():g}")
        if self.family == "gamma" and y.min() <= 0:
            raise ValueError(f"y must be positive for the family 'gamma', got a minimum of {y.min():g}")
        coef, intercept = self._solve(self.family, X, y, sample_weight)
        self.coef_, self.intercept_ = coef[0], float(intercept[0])
        return self

    def predict(self, X: Any) -> Any:
        """Return the mean of the targets, `(samples,)`: `eta` for the Gaussian family, `exp(eta)` for the others."""
        eta = self._predictor(X)
        return eta if self.family == "gaussian" else numpy.exp(eta)


class SparseoutClassifier(ClassifierMixin, _SparseoutModel):  # type: ignore[misc]
    """Logistic regression that minimizes `sum_i w_i (loss_i + penalty_i) / sum_i w_i + alpha/2 |coef|^2`.

    The family is Bernoulli for two classes and multinomial for more. `sparseout.glm.penalty` documents the penalty, and
    `SparseoutRegressor` the parameters. The objective is not convex: the factor `s (1 - s)` of the penalty vanishes for samples
    that are classified with certainty. For separable data the minimum may therefore lie at infinity, which causes a warning.
    `alpha > 0` makes the minimum finite.

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
        self.coef_, self.intercept_ = self._solve(family, X, y, sample_weight, rows)
        self.classes_ = labels.classes_
        return self

    def decision_function(self, X: Any) -> Any:
        """Return `eta`: `(samples,)` for two classes, `(samples, classes)` for more."""
        eta = self._predictor(X)
        return eta[:, 0] if eta.shape[1] == 1 else eta

    def predict_log_proba(self, X: Any) -> Any:
        """Return the log-probabilities of the classes, `(samples, classes)`."""
        eta = self._predictor(X)
        both = numpy.hstack([numpy.zeros_like(eta), eta]) if eta.shape[1] == 1 else eta
        return scipy.special.log_softmax(both, axis=1)

    def predict_proba(self, X: Any) -> Any:
        """Return the probabilities of the classes, `(samples, classes)`."""
        return numpy.exp(self.predict_log_proba(X))

    def predict(self, X: Any) -> Any:
        """Return the most probable label of each sample, `(samples,)`."""
        best = self.predict_log_proba(X).argmax(axis=1)
        return self.classes_[best]
