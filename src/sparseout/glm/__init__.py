"""Sparseout in generalized linear models: its penalty, its expected loss, and scikit-learn estimators.

`penalty` and `expected_loss` only need torch. The estimators and `path` need scikit-learn, which the first access to one of them
imports.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sparseout.glm.expectation import ExpectedLoss, expected_loss
from sparseout.glm.penalty import penalty

if TYPE_CHECKING:
    from sparseout.glm.cross_validation import SparseoutClassifierCV, SparseoutRegressorCV
    from sparseout.glm.estimators import SparseoutClassifier, SparseoutRegressor
    from sparseout.glm.paths import Path, Paths, path

__all__ = [
    "ExpectedLoss",
    "Path",
    "Paths",
    "SparseoutClassifier",
    "SparseoutClassifierCV",
    "SparseoutRegressor",
    "SparseoutRegressorCV",
    "expected_loss",
    "path",
    "penalty",
]

_LAZY = {
    "SparseoutClassifier": "estimators",
    "SparseoutClassifierCV": "cross_validation",
    "SparseoutRegressor": "estimators",
    "SparseoutRegressorCV": "cross_validation",
    "Path": "paths",
    "Paths": "paths",
    "path": "paths",
}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{name} needs {error.name}: pip install 'sparseout[glm]'", name=error.name) from error
