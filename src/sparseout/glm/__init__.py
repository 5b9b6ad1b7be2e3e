"""Sparseout in generalized linear models: the penalty that the noise amounts to, and estimators that use it.

`penalty` and `expected_loss` need torch alone; `SparseoutRegressor`, `SparseoutClassifier` and `path` need scikit-learn.
"""

from sparseout.glm.expectation import ExpectedLoss, expected_loss
from sparseout.glm.penalty import penalty

__all__ = ["ExpectedLoss", "expected_loss", "penalty"]
