"""Fits of a dense binary classifier: the marginal objective and scikit-learn's logistic regression at equal tolerance."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

from sparseout.bench.op import P, Row
from sparseout.bench.timing import Spread, alternate, load, spread_columns

COLUMNS = (
    *("samples", "features", "estimator", "q", "iterations", *spread_columns("seconds")),
    *(*spread_columns("ratio_to_sklearn", "ratio"), "rounds", "load"),
)
FEATURES = 200
TOL = 1e-4  # for the largest component of the mean loss's gradient


def measure(samples: int, seconds: float) -> list[Row]:
    """Fit the estimators in turn to the same synthetic data for about `seconds`, and return a row for each."""
    import numpy
    from sklearn.linear_model import LogisticRegression

    from sparseout.glm import SparseoutClassifier

    X, y = _data(samples)
    estimators: dict[tuple[str, float | None], Any] = {
        ("LogisticRegression", None): LogisticRegression(C=float("inf"), solver="lbfgs", tol=TOL),
        **{("SparseoutClassifier", q): SparseoutClassifier(p=P, q=q, tol=TOL) for q in (1.5, 2.0)},
    }
    fits = {name: _timed(estimator, X, y) for name, estimator in estimators.items()}
    for fit in fits.values():
        fit()
    times = alternate(fits, seconds)
    return [
        {
            **{"samples": samples, "features": FEATURES, "estimator": name, "q": q, "rounds": len(taken), "load": load()},
            "iterations": int(numpy.max(estimators[name, q].n_iter_)),
            **Spread.of(taken).columns("seconds"),
            **Spread.of_ratios(taken, times["LogisticRegression", None]).columns("ratio_to_sklearn", "ratio"),
        }
        for (name, q), taken in times.items()
    ]


def _data(samples: int) -> tuple[Any, Any]:
    """Draw normal features and two classes; the log-odds are linear with a standard deviation of about 1.4."""
    import numpy

    random = numpy.random.default_rng(0)
    X = random.normal(size=(samples, FEATURES))
    eta = X @ random.normal(scale=0.1, size=FEATURES)
    return X, random.uniform(size=samples) < 1 / (1 + numpy.exp(-eta))


def _timed(estimator: Any, X: Any, y: Any) -> Callable[[], float]:
    def fit() -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # small samples may be separable
            start = time.perf_counter()
            estimator.fit(X, y)
            return time.perf_counter() - start

    return fit
