"""Scikit-learn's estimators of generalized linear models with Sparseout on the features."""

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
    """What the two estimators share: parameters, fitting, and the linear predictor."""

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
        """Fit checked data; the coefficients `(classes, features)` and the intercepts `(classes,)`."""
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
                "coef_ and intercept_ must be finite to start from with warm_start=True: fit a clone of the estimator"
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
            sizes = f"|X| is up to {abs(X).max():g} and |y| up to {abs(y).max():g}"
            raise ValueError(
                f"{type(self).__name__} found no finite coefficients, where {sizes}: scale the features or the targets"
            )
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
            raise ValueError(f"sample_weight must not be negative, nor zero everywhere, got a minimum of {weights.min():g}")
        return weights

    def _check_weighted(self, family: str, y: Any) -> None:
        """Raise if the samples that count leave a minimum at infinity."""
        if family == "poisson" and y.max() == 0:
            raise ValueError("y must not be 0 everywhere that sample_weight is positive, for the family 'poisson'")
        if family in ("bernoulli", "multinomial") and (y == y[0]).all():
            raise ValueError("y must have two classes at least where sample_weight is positive, got one class")

    def _predictor(self, X: Any) -> Any:
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=numpy.float64, reset=False)
        return safe_sparse_dot(X, self.coef_.T, dense_output=True) + self.intercept_


class SparseoutRegressor(RegressorMixin, _SparseoutModel):  # type: ignore[misc]
    """Minimises `sum_i w_i (loss_i + penalty_i) / sum_i w_i + alpha/2 |coef|^2`, the penalty that of `sparseout.glm.penalty`.

    The features are neither centred nor scaled: `|x|^q` depends on their scale. The intercept gets no noise.

    Args:
        family: `"gaussian"` (identity link), `"poisson"` or `"gamma"` (log link).
        p: drop probability in [0, 1).
        q: norm of the penalty, at least 0; 2 is Dropout.
        method: `"marginal"` minimises the objective above by L-BFGS (the Gaussian one by conjugate gradients),
            without sampling. `"stochastic"` trains in minibatches of
            32 under noise that `sparseout.sparseout` draws: it approaches the minimum of the exact expectation, which is the
            marginal one for the Gaussian family.
        alpha: weight of the ridge penalty, at least 0.
        fit_intercept: whether to fit an intercept.
        tol: `"marginal"` stops where no component of the gradient is larger, with targets and features in units that make
            the curvature about 1 (for the Gaussian family where its norm is 10^-4 times that); `"stochastic"` where a pass
            moves the average of the iterates by less, relatively.
        max_iter: iterations, or passes over the samples, at most.
        warm_start: start from the last fit's coefficients.
        random_state: of the noise and the order of the samples, for `"stochastic"`.

    Attributes:
        coef_: `(features,)`.
        intercept_: a number.
        n_iter_: iterations, or passes.
        n_features_in_, feature_names_in_: as everywhere in scikit-learn.

    Raises:
        ValueError: a parameter or the data is out of its domain: targets must not be negative for `"poisson"`, and must be
            positive for `"gamma"`; or no float64 can hold `|X|^q` or the coefficients.

    Warns:
        ConvergenceWarning: `max_iter` was reached, no step lowers the objective any further, or its minimum lies at infinity. The
            quadratic form is not convex in every family: a minimum may be a local one.

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
            sample_weight: `(samples,)`, not negative. Default: equal weights.

        Returns:
            This estimator.
        """
        check_choice("family", self.family, get_args(RegressorFamily))
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=numpy.float64, y_numeric=True)
        y = y.astype(numpy.float64)
        if self.family == "poisson" and (y.min() < 0 or y.max() == 0):
            raise ValueError(f"y must not be negative, nor 0 everywhere, for the family 'poisson', got a minimum of {y.min():g}")
        if self.family == "gamma" and y.min() <= 0:
            raise ValueError(f"y must be positive for the family 'gamma', got a minimum of {y.min():g}")
        coef, intercept = self._solve(self.family, X, y, sample_weight)
        self.coef_, self.intercept_ = coef[0], float(intercept[0])
        return self

    def predict(self, X: Any) -> Any:
        """The mean of the target: `eta` for the Gaussian family, `exp(eta)` for the others, `(samples,)`."""
        eta = self._predictor(X)
        return eta if self.family == "gaussian" else numpy.exp(eta)


class SparseoutClassifier(ClassifierMixin, _SparseoutModel):  # type: ignore[misc]
    """Logistic regression with the penalty of `sparseout.glm.penalty`: Bernoulli for two classes, multinomial for more.

    Minimises `sum_i w_i (loss_i + penalty_i) / sum_i w_i + alpha/2 |coef|^2`. The parameters are those of `SparseoutRegressor`.
    The quadratic form is not convex here: its weight `s (1 - s)` vanishes for samples that are classified with certainty, so that
    for separable data the minimum may lie at infinity. A warning says so where the fit ran that way; `alpha > 0` makes it finite.

    Attributes:
        classes_: the labels.
        coef_: `(1, features)` for two classes, `(classes, features)` for more.
        intercept_: `(1,)` or `(classes,)`.
        n_iter_: iterations, or passes.
        n_features_in_, feature_names_in_: as everywhere in scikit-learn.

    Raises:
        ValueError: a parameter or the data is out of its domain: there must be two classes at least.

    Warns:
        ConvergenceWarning: `max_iter` was reached, no step lowers the objective any further, or its minimum lies at infinity.

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
            sample_weight: `(samples,)`, not negative. Default: equal weights.

        Returns:
            This estimator.
        """
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=numpy.float64)
        check_classification_targets(y)
        labels = LabelEncoder()
        y = labels.fit_transform(y).astype(numpy.float64)
        if len(labels.classes_) < 2:
            raise ValueError(f"y must have two classes at least, got one class: {labels.classes_[0]}")
        family, rows = ("bernoulli", 1) if len(labels.classes_) == 2 else ("multinomial", len(labels.classes_))
        self.coef_, self.intercept_ = self._solve(family, X, y, sample_weight, rows)
        self.classes_ = labels.classes_
        return self

    def decision_function(self, X: Any) -> Any:
        """`eta`: `(samples,)` for two classes, `(samples, classes)` for more."""
        eta = self._predictor(X)
        return eta[:, 0] if eta.shape[1] == 1 else eta

    def predict_log_proba(self, X: Any) -> Any:
        """Logarithms of the classes' probabilities, `(samples, classes)`."""
        eta = self._predictor(X)
        both = numpy.hstack([numpy.zeros_like(eta), eta]) if eta.shape[1] == 1 else eta
        return scipy.special.log_softmax(both, axis=1)

    def predict_proba(self, X: Any) -> Any:
        """The classes' probabilities, `(samples, classes)`."""
        return numpy.exp(self.predict_log_proba(X))

    def predict(self, X: Any) -> Any:
        """The most probable label of each sample, `(samples,)`."""
        best = self.predict_log_proba(X).argmax(axis=1)
        return self.classes_[best]
