"""Sparseout in generalized linear models: its penalty, its expected loss, and scikit-learn estimators.

`penalty` and `expected_loss` only need torch. `SparseoutRegressor`, `SparseoutClassifier` and `path` need scikit-learn, which the
first access to one of them imports.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sparseout.glm.expectation import ExpectedLoss, expected_loss
from sparseout.glm.penalty import penalty

if TYPE_CHECKING:
    from sparseout.glm.estimators import SparseoutClassifier, SparseoutRegressor
    from sparseout.glm.paths import Path, path

__all__ = ["ExpectedLoss", "Path", "SparseoutClassifier", "SparseoutRegressor", "expected_loss", "path", "penalty"]

_LAZY = {"SparseoutClassifier": "estimators", "SparseoutRegressor": "estimators", "Path": "paths", "path": "paths"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{name} needs {error.name}: pip install 'sparseout[glm]'", name=error.name) from error
