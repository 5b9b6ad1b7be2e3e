"""The two solvers: deterministic minimization of the marginalized objective, and averaged SGD under sampled noise."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any, NamedTuple

import numpy
import scipy.linalg
import scipy.optimize
import torch
from scipy.sparse.linalg import LinearOperator, cg
from torch import Tensor

from sparseout.glm import newton
from sparseout.glm.problem import Evaluation, Problem
from sparseout.op.functional import sparseout

_BATCH = 32
# The largest step of a coefficient, in units of the problem, for exponential losses.
_MAX_STEP = 0.1
_NO_STEP = (
    "no step lowers the objective, which happens if features or targets differ much in size, or if a log link has no "
    "intercept; scale the features and targets, or increase tol or alpha"
)


class Solution(NamedTuple):
    """The result of a solver.

    Attributes:
        theta: the parameters in units of the problem.
        iterations: number of iterations, or of passes over the samples.
        failure: the reason why `theta` is no minimum; empty if it is one.
    """

    theta: Tensor
    iterations: int
    failure: str


def marginal(problem: Problem, start: Tensor | None, tol: float, max_iter: int) -> Solution:
    """Minimize `problem.marginal` until the largest component of the gradient is at most `tol`.

    The solver is L-BFGS, except for the quadratic Gaussian objective. There, rounding errors in the objective limit the accuracy
    of L-BFGS, so conjugate gradients are used, which only need the gradient. For many samples, L-BFGS starts at the minimum of a
    part of them, unless `start` is given, and the Hessian of that part is its first approximation of the Hessian.
    """
    if problem.model.family == "gaussian":
        return _conjugate_gradients(problem, problem.start() if start is None else start, tol, max_iter)
    found = _from_part(problem, tol, max_iter) if start is None and newton.takes_part(problem) else None
    if found is None:
        start = problem.start() if start is None else start
        found = _lbfgs(problem, start.flatten().numpy(), None, tol, max_iter)
    theta = torch.from_numpy(found.theta).reshape(problem.shape)
    failure = found.failure
    may_grow = not failure and problem.model.alpha == 0
    if may_grow and (_separates(problem, found) or (not found.is_minimum and _is_on_plateau(problem, found, tol))):
        failure = (
            f"after {found.iterations} iterations the objective still falls as the coefficients grow, because the features "
            "separate the samples and the minimum lies at infinity; use alpha > 0 for a finite minimum"
        )
    return Solution(theta, found.iterations, failure)


class _Found(NamedTuple):
    """The end of L-BFGS: the flat parameters, the objective there, and whether a part's curvature proves a minimum nearby."""

    theta: Any
    at: Evaluation
    iterations: int
    failure: str
    is_minimum: bool


def _from_part(problem: Problem, tol: float, max_iter: int) -> _Found | None:
    """Solve a part of the problem, and continue from there; None if the part does not help."""
    part = problem.sample(newton.STEP)
    if part is None:
        return None
    # The gradient of the whole problem is about 0.5 / sqrt(n) at the minimum of the part, so a smaller tolerance gains nothing.
    part_tol = max(tol, 0.2 / len(part.y) ** 0.5)
    solved = _from_part(part, part_tol, max_iter) if newton.takes_part(part) else None
    solved = solved or _lbfgs(part, part.start().flatten().numpy(), None, part_tol, max_iter)
    start = None if solved.failure or _separates(part, solved) else newton.start_at(part, problem, solved.theta)
    return None if start is None else _lbfgs(problem, start.theta, start, tol, max_iter)


def _lbfgs(problem: Problem, start: Any, known: newton.Start | None, tol: float, max_iter: int) -> _Found:
    """Run L-BFGS from `start`, where the objective and a factor of its approximate Hessian may be known.

    The variables are `z`, with `theta = start + scale factor'^-1 z`. The scale makes the first step, whose length is 1 at most in
    L-BFGS-B, the whole Newton step.
    """
    last, factor = (known.at, known.factor) if known else (problem.evaluate(start), None)
    if abs(last.gradient).max() <= tol:
        return _Found(start, last, 0, "", bool(known and known.proves_minimum(start, tol)))
    scale = 1.0
    if factor is not None:
        scale = float(numpy.linalg.norm(scipy.linalg.solve_triangular(factor, last.gradient, lower=True)))

    def position(z: Any) -> Any:
        return start + (z if factor is None else scale * scipy.linalg.solve_triangular(factor, z, lower=True, trans=1))

    def evaluate(z: Any) -> tuple[float, Any]:
        nonlocal last
        last = problem.evaluate(position(z)) if z.any() else last
        gradient = last.gradient
        if factor is not None:
            gradient = scale * scipy.linalg.solve_triangular(factor, gradient, lower=True)
        return last.value, gradient

    def stop(z: Any) -> None:
        if abs(last.gradient).max() <= tol:
            raise StopIteration

    # ftol = 0 disables the test on the relative change of the objective, which says little about the gradient.
    options = {"maxiter": max_iter, "maxls": 50, "gtol": 0.0, "ftol": 0.0}
    found = scipy.optimize.minimize(
        evaluate, numpy.zeros_like(start), jac=True, method="L-BFGS-B", options=options, callback=stop
    )
    theta, failure = position(found.x), ""
    if found.nit >= max_iter or not abs(last.gradient).max() <= tol:  # the last evaluation may not be of the last iterate
        last = problem.evaluate(theta)
    if found.nit < max_iter:
        theta, last = newton.polished(problem, theta, last, tol)
    if not abs(last.gradient).max() <= tol:
        advice = "increase max_iter or tol" if found.nit >= max_iter else _NO_STEP
        failure = f"L-BFGS stopped after {found.nit} iterations: {found.message}; {advice}"
    return _Found(theta, last, int(found.nit), failure, bool(known and known.proves_minimum(theta, tol)))


def _separates(problem: Problem, found: _Found) -> bool:
    """Whether every sample is classified correctly and doubling the coefficients lowers the objective."""
    if problem.family.sign or found.at.largest_loss >= math.log(2):
        return False
    return problem.evaluate(2 * found.theta).value < found.at.value


def _is_on_plateau(problem: Problem, found: _Found, tol: float) -> bool:
    """Whether the end of L-BFGS is on a plateau instead of at a minimum.

    On a plateau, further iterations move the coefficients far, and an even larger move in this direction fits no sample worse.
    """
    if problem.family.needs_y or found.at.smallest_loss > 0.01:  # a minimum at infinity fits some samples almost perfectly
        return False
    theta = found.theta
    step = _lbfgs(problem, theta, None, tol * 1e-3, 50).theta - theta
    if not abs(step).max() > 0.1 * abs(theta).max():
        return False
    losses, far = (problem.losses(torch.from_numpy(each).reshape(problem.shape)) for each in (theta, theta + 10 * step))
    return bool((far < losses + 0.02).all())


def _conjugate_gradients(problem: Problem, start: Tensor, tol: float, max_iter: int) -> Solution:
    """Find the zero of a gradient that is linear in `theta` and the targets."""
    iterations = itertools.count()
    size, zeros = start.numel(), numpy.zeros(len(problem.y))
    hessian = LinearOperator((size, size), lambda theta: problem.evaluate(theta.ravel(), zeros).gradient, dtype=numpy.float64)
    right_side = -problem.evaluate(numpy.zeros(size)).gradient
    # The tighter tolerance takes one or two more iterations, and makes the result independent of the order of summation.
    options = {"rtol": 0.0, "atol": tol * 1e-4, "maxiter": max_iter, "callback": lambda theta: next(iterations)}
    found, unfinished = cg(hessian, right_side, start.flatten().numpy(), **options)
    failure = f"conjugate gradients stopped after {max_iter} iterations; increase max_iter or tol" if unfinished else ""
    return Solution(torch.from_numpy(found).reshape(start.shape), next(iterations), failure)


def stochastic(problem: Problem, start: Tensor, tol: float, max_iter: int, seed: int) -> Solution:
    """Run averaged SGD on `problem.noisy` until a pass changes the average by at most `tol`, relative to its largest component.

    The average `a_t = a_(t-1) + 3 / (t + 2) (theta_t - a_(t-1))` gives more weight to later iterates.

    Source: Shamir and Zhang (2013), *Stochastic gradient descent for non-smooth optimization*, for the average.
    """
    order = torch.Generator().manual_seed(seed)
    noise = functools.partial(sparseout, p=problem.model.p, q=problem.model.q, generator=torch.Generator().manual_seed(seed + 1))
    theta = start.clone().requires_grad_()
    average = start.clone()
    largest = 1 / (problem.shape[1] + 1)
    steps = 0
    for epoch in range(1, max_iter + 1):
        before = average.clone()
        for batch in torch.randperm(len(problem.y), generator=order).split(_BATCH):
            (gradient,) = torch.autograd.grad(problem.noisy(theta, batch, noise), theta)
            steps += 1
            with torch.no_grad():
                step = largest / (1 + largest * steps / 10) ** 0.5 * gradient
                if problem.family.sign:  # the gradient of an exponential is unbounded, so a rare draw could move theta far away
                    step /= (step.abs().max() / _MAX_STEP).clamp(min=1)
                theta -= step
                average += 3 / (steps + 2) * (theta - average)
        if not average.isfinite().all():
            raise ValueError("method='stochastic' diverged: scale the features or targets down, or use method='marginal'")
        if (average - before).abs().max() <= tol * average.abs().max():
            return Solution(average, epoch, "")
    return Solution(
        average, max_iter, f"the average still changed after {max_iter} passes over the samples; increase max_iter or tol"
    )
