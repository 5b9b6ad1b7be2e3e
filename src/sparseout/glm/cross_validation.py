"""Estimators that choose `p` and `q` by cross-validation. Along `p`, each fit starts from the previous one."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy
from joblib import Parallel, delayed
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import check_scoring
from sklearn.model_selection import check_cv
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, validate_data

from sparseout.checks import check_q
from sparseout.glm.base import Classifier, LinearPredictor, Regressor, parameters
from sparseout.glm.estimators import SparseoutClassifier, SparseoutRegressor
from sparseout.glm.penalty import check_p_below_1
from sparseout.progress import track


def check_grid(name: str, grid: Any) -> list[float]:
    """Return the values of a grid of `p` or `q` as floats, or raise."""
    if isinstance(grid, str) or numpy.ndim(grid) != 1 or not len(grid):
        raise ValueError(f"{name} must be a non-empty sequence of numbers, got {grid!r:.60}")
    check = check_p_below_1 if name == "p_grid" else check_q
    return [check(value) for value in numpy.asarray(grid).tolist()]


@parameters
class _CrossValidated(LinearPredictor):
    """Base class of the two estimators: the grids, and the search."""

    p_grid: Sequence[float] = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
    q_grid: Sequence[float] = (0.5, 1.0, 1.5, 2.0, 3.0)
    cv: Any = None
    scoring: Any = None
    n_jobs: int | None = None

    def _search(self, estimator: Any, X: Any, y: Any, sample_weight: Any) -> None:
        """Score the grid, and fit `estimator` at the best point to all samples."""
        p_grid, q_grid = check_grid("p_grid", self.p_grid), check_grid("q_grid", self.q_grid)
        weights = None if sample_weight is None else _check_sample_weight(sample_weight, X, dtype=numpy.float64)
        scorer = check_scoring(estimator, scoring=self.scoring)
        folds = list(check_cv(self.cv, y, classifier=isinstance(self, Classifier)).split(X, y))
        order = numpy.argsort(p_grid)
        calls = (
            delayed(_scores)(estimator, q, [p_grid[i] for i in order], X, y, weights, fold, scorer)
            for q in q_grid
            for fold in folds
        )
        tasks = len(q_grid) * len(folds)
        results = list(track(Parallel(n_jobs=self.n_jobs, return_as="generator")(calls), "cross-validation", tasks))
        self.scores_ = numpy.empty((len(p_grid), len(q_grid), len(folds)))
        self.scores_[order] = (
            numpy.array([scores for scores, _ in results]).reshape(len(q_grid), len(folds), -1).transpose(2, 0, 1)
        )
        unfinished = sum(count for _, count in results)
        if unfinished:
            fits = f"{unfinished} of {self.scores_.size} fits of the cross-validation"
            message = f"{fits} did not converge: use alpha > 0, or increase max_iter or tol"
            warnings.warn(message, ConvergenceWarning, stacklevel=3)
        means = self.scores_.mean(axis=2)
        if not numpy.isfinite(means).any():
            raise ValueError("scoring must be finite for at least one point of the grid, got NaN or infinity for all")
        best = numpy.unravel_index(numpy.where(numpy.isfinite(means), means, -numpy.inf).argmax(), means.shape)
        self.p_, self.q_, self.best_score_ = p_grid[best[0]], q_grid[best[1]], float(means[best])
        fitted = estimator.set_params(p=self.p_, q=self.q_).fit(X, y, sample_weight)
        self.coef_, self.intercept_, self.n_iter_ = fitted.coef_, fitted.intercept_, fitted.n_iter_

    def _shared(self, kind: type[LinearPredictor]) -> dict[str, Any]:
        """Return the parameters that this estimator shares with another kind."""
        own = self.get_params(deep=False)
        return {name: own[name] for name in kind().get_params(deep=False) if name in own}


def _scores(
    estimator: Any, q: float, p_grid: list[float], X: Any, y: Any, weights: Any, fold: Any, scorer: Any
) -> tuple[list[float], int]:
    """Return the score of a fold at `q` for each `p`, and the number of fits that did not converge."""
    train, test = fold
    model = clone(estimator).set_params(q=q, warm_start=True)
    scores, unfinished = [], 0
    given = {} if weights is None else {"sample_weight": weights[test]}
    for p in p_grid:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.set_params(p=p).fit(X[train], y[train], None if weights is None else weights[train])
        unfinished += any(issubclass(each.category, ConvergenceWarning) for each in caught)
        scores.append(float(scorer(model, X[test], y[test], **given)))
    return scores, unfinished


@parameters
class SparseoutRegressorCV(Regressor, _CrossValidated):
    """`SparseoutRegressor` with the `p` and `q` of the best mean score over the folds of a cross-validation.

    For each `q` and fold, the fits along `p` start from the previous one. The best point is then fitted to all samples.

    Args:
        p_grid: drop probabilities in [0, 1).
        q_grid: norms of at least 0.
        cv: number of folds, a splitter of scikit-learn, or an iterable of splits. Default: 5 folds.
        scoring: name of a score of scikit-learn, or a function of `(estimator, X, y)`; larger is better. Default: R^2.
        n_jobs: number of processes. Default: 1.
        family, method, alpha, fit_intercept, tol, max_iter, random_state: see `SparseoutRegressor`.

    Attributes:
        p_, q_: the chosen values.
        best_score_: their mean score.
        scores_: the scores, `(len(p_grid), len(q_grid), folds)`.
        coef_, intercept_, n_iter_, n_features_in_, feature_names_in_: of the fit to all samples, as in `SparseoutRegressor`.

    Raises:
        ValueError: a parameter or the data is out of range, or no point has a finite score.

    Warns:
        ConvergenceWarning: fits of the cross-validation, or the fit to all samples, did not converge.

    >>> from sklearn.datasets import load_diabetes
    >>> X, y = load_diabetes(return_X_y=True)
    >>> model = SparseoutRegressorCV(p_grid=[0.01, 0.1, 0.5], q_grid=[1.0, 2.0]).fit(X, y)
    >>> model.q_, model.scores_.shape
    (2.0, (3, 2, 5))
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> SparseoutRegressorCV:
        """Choose `p` and `q`, and fit the model.

        Args:
            X: features, `(samples, features)`, dense, sparse or a data frame.
            y: targets, `(samples,)`, or `(samples, outputs)` for the Gaussian family.
            sample_weight: nonnegative weights of the samples in the fits and the scores, `(samples,)`. Default: equal weights.

        Returns:
            This estimator.
        """
        several = self.family == "gaussian"
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=numpy.float64, y_numeric=True, multi_output=several)
        self._search(SparseoutRegressor(**self._shared(SparseoutRegressor)), X, y, sample_weight)
        return self


@parameters
class SparseoutClassifierCV(Classifier, _CrossValidated):
    """`SparseoutClassifier` with the `p` and `q` of the best mean score over the folds of a cross-validation.

    `SparseoutRegressorCV` documents the grids, the parameters of the search and the attributes, and `SparseoutClassifier` the
    other parameters. The default score is accuracy, and the default folds are stratified.

    Attributes:
        classes_: the labels.

    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> model = SparseoutClassifierCV(p_grid=[0.05, 0.2], q_grid=[1.0, 2.0], alpha=1e-3, scoring="neg_log_loss").fit(X, y)
    >>> model.p_, model.coef_.shape
    (0.05, (3, 4))
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> SparseoutClassifierCV:
        """Choose `p` and `q`, and fit the model.

        Args:
            X: features, `(samples, features)`, dense, sparse or a data frame.
            y: labels, `(samples,)`.
            sample_weight: nonnegative weights of the samples in the fits and the scores, `(samples,)`. Default: equal weights.

        Returns:
            This estimator.
        """
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=numpy.float64)
        check_classification_targets(y)
        self.classes_ = numpy.unique(y)
        if len(self.classes_) < 2:
            raise ValueError(f"y must have at least two classes, got one class: {self.classes_[0]}")
        self._search(SparseoutClassifier(**self._shared(SparseoutClassifier)), X, y, sample_weight)
        return self
