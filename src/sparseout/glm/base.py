"""The parameters and the predictions that the estimators and their cross-validated forms share."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any, Literal

import numpy
import scipy.special
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.extmath import safe_sparse_dot
from sklearn.utils.validation import check_is_fitted, validate_data

from sparseout.checks import check_number

Method = Literal["marginal", "stochastic"]
RegressorFamily = Literal["gaussian", "poisson", "gamma"]

# Scikit-learn reads the parameters from the signature of `__init__`, and has its own equality and text.
parameters = dataclasses.dataclass(kw_only=True, eq=False, repr=False)


@parameters
class LinearPredictor(BaseEstimator):  # type: ignore[misc]
    """Base class of all estimators: the parameters of the fit, and the linear predictor."""

    method: Method = "marginal"
    alpha: float = 0.0
    fit_intercept: bool = True
    tol: float = 1e-4
    max_iter: int = 1000
    random_state: Any = None

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def _predictor(self, X: Any) -> Any:
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=numpy.float64, reset=False)
        return safe_sparse_dot(X, self.coef_.T, dense_output=True) + self.intercept_

    def _at_least_0(self, name: str) -> float:
        return check_number(name, getattr(self, name), 0.0, sys.float_info.max, "a finite number of at least 0")

    def _max_iter(self) -> int:
        allowed = "an integer of at least 1"
        number = check_number("max_iter", self.max_iter, 1, 2**31 - 1, allowed)
        if not number.is_integer():
            raise ValueError(f"max_iter must be {allowed}, got {self.max_iter!r}")
        return int(number)


@parameters
class Regressor(RegressorMixin, LinearPredictor):  # type: ignore[misc]
    """Base class of the regressors: the family, and the mean of the targets."""

    family: RegressorFamily = "gaussian"

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.positive_only = self.family != "gaussian"
        tags.target_tags.multi_output = self.family == "gaussian"
        return tags

    def predict(self, X: Any) -> Any:
        """Return the mean of the targets: `eta` for the Gaussian family, `exp(eta)` for the others.

        Its shape is `(samples,)`, or `(samples, outputs)` for several outputs.
        """
        eta = self._predictor(X)
        return eta if self.family == "gaussian" else numpy.exp(eta)


@parameters
class Classifier(ClassifierMixin, LinearPredictor):  # type: ignore[misc]
    """Base class of the classifiers: the weights of the classes, and their probabilities."""

    class_weight: Any = None

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
