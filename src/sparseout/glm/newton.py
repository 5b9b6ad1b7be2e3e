"""A start for the solver of many dense samples: the minimum of a part of them, with the Hessian there as a preconditioner."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy
import scipy.linalg
import torch

from sparseout.glm.problem import Evaluation, Problem

STEP = 8  # a part is every STEP-th sample
_SAMPLES_PER_FEATURE = 5  # of a part, at least
_SAMPLES, _FEATURES = 4096, 1000  # at least so many samples, at most so many features
_CURVATURE = 1e-4  # smallest curvature of a part, in units of the problem, for which its minimum is of use


class Start(NamedTuple):
    """Where to start, and what a part of the problem says of this point, in units of the problem.

    Attributes:
        theta: the minimum of the part.
        at: the objective of the problem there.
        factor: Cholesky factor of the part's Hessian there, `factor factor' = H`.
        curvature: smallest eigenvalue of this Hessian.
    """

    theta: Any
    at: Evaluation
    factor: Any
    curvature: float

    def proves_minimum(self, theta: Any, tol: float) -> bool:
        """Whether `theta` is near the start, so that the curvature there holds, and the minimum is within a tenth of `theta`."""
        near = 0.1 * abs(theta).max()
        return bool(abs(theta - self.theta).max() <= near and len(theta) ** 0.5 * tol / self.curvature <= near)


def takes_part(problem: Problem) -> bool:
    """Whether `problem` has so many dense samples for its features that a part of them says where the minimum is."""
    samples, features = problem.X.shape
    enough = samples >= _SAMPLES and samples >= STEP * _SAMPLES_PER_FEATURE * features
    return problem.blocks is not None and enough and features <= _FEATURES and not problem.feature_exponents.any()


def start_at(part: Problem, problem: Problem, theta: Any) -> Start | None:
    """Return the start of `problem` from the minimum `theta` of a part, or None if the objective is nearly flat there.

    The mean losses of the samples and of a random part differ by `O(1 / sqrt(n))`, and so do the minima, if the curvature of the
    part's objective is not small in any direction.
    """
    if part.feature_exponents.any() or not numpy.isfinite(theta).all():
        return None
    hessian = part.hessian(theta)
    if not numpy.isfinite(hessian).all() or _smallest(hessian) < _CURVATURE:
        return None
    coef, intercept = part.parameters(torch.from_numpy(theta).reshape(part.shape))
    at = problem.evaluate_coefficients(coef[0], float(intercept[0]))
    change = (problem.unit / part.unit).numpy()
    scale = float(part.objective_scale / problem.objective_scale)
    hessian = change[:, None] * hessian * change * scale
    start = problem.start(coef, intercept).numpy().ravel()
    return Start(start, at, numpy.linalg.cholesky(hessian), _smallest(hessian))


def _smallest(hessian: Any) -> float:
    return float(scipy.linalg.eigvalsh(hessian, subset_by_index=[0, 0])[0])


def polished(problem: Problem, theta: Any, at: Evaluation, tol: float) -> tuple[Any, Evaluation]:
    """Take Newton steps while they halve the largest component of the gradient and it exceeds `tol`.

    They do not compare values of the objective, whose rounding error stops L-BFGS near the minimum.
    """
    while problem.blocks is not None and len(theta) <= _FEATURES and abs(at.gradient).max() > tol:
        hessian = problem.hessian(theta)
        if not numpy.isfinite(hessian).all() or _smallest(hessian) <= 0:
            break
        new = theta - scipy.linalg.solve(hessian, at.gradient, assume_a="pos")
        found = problem.evaluate(new)
        if not abs(found.gradient).max() <= abs(at.gradient).max() / 2:
            break
        theta, at = new, found
    return theta, at
