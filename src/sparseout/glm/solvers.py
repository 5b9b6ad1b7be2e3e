"""The two solvers: deterministic minimization of the marginalized objective, and averaged SGD under sampled noise."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy
import scipy.optimize
import torch
from scipy.sparse.linalg import LinearOperator, cg
from torch import Tensor

from sparseout.glm.problem import Problem
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


def marginal(problem: Problem, start: Tensor, tol: float, max_iter: int) -> Solution:
    """Minimize `problem.marginal` until the largest component of the gradient is at most `tol`.

    The solver is L-BFGS, except for the quadratic Gaussian objective. There, rounding errors in the objective limit the accuracy
    of L-BFGS, so conjugate gradients are used, which only need the gradient.
    """

    def evaluate(flat: Any, y: Tensor | None = None) -> tuple[float, Any]:
        theta = torch.from_numpy(flat.copy()).reshape(start.shape).requires_grad_()
        value = problem.marginal(theta, y)
        (gradient,) = torch.autograd.grad(value, theta)
        return value.item(), gradient.flatten().numpy()

    if problem.model.family == "gaussian":
        return _conjugate_gradients(evaluate, torch.zeros_like(problem.y), start, tol, max_iter)
    # ftol = 0 disables the test on the relative change of the objective, which says little about the gradient.
    options = {"maxiter": max_iter, "maxls": 50, "gtol": tol, "ftol": 0.0}
    found = scipy.optimize.minimize(evaluate, start.flatten().numpy(), jac=True, method="L-BFGS-B", options=options)
    theta = torch.from_numpy(found.x).reshape(start.shape)
    failure = ""
    if not found.success:
        advice = "increase max_iter or tol" if found.nit >= max_iter else _NO_STEP
        failure = f"L-BFGS stopped after {found.nit} iterations: {found.message}; {advice}"
    elif problem.model.alpha == 0 and (_separates(problem, theta) or _runs_away(problem, theta, evaluate, options)):
        failure = (
            f"after {found.nit} iterations the objective still falls as the coefficients grow, because the features separate "
            "the samples and the minimum lies at infinity; use alpha > 0 for a finite minimum"
        )
    return Solution(theta, int(found.nit), failure)


def _separates(problem: Problem, theta: Tensor) -> bool:
    """Whether every sample is classified correctly and doubling the coefficients lowers the objective."""
    if problem.family.sign:
        return False
    return bool(problem.losses(theta).max() < math.log(2)) and bool(problem.marginal(2 * theta) < problem.marginal(theta))


def _runs_away(problem: Problem, theta: Tensor, evaluate: Callable[..., Any], options: Mapping[str, Any]) -> bool:
    """Whether `theta` is on a plateau instead of at a minimum.

    On a plateau, further iterations move the coefficients far, and an even larger move in this direction fits no sample worse.
    """
    losses = problem.losses(theta)
    if problem.family.needs_y or losses.min() > 0.01:  # a minimum at infinity fits some samples almost perfectly
        return False
    finer = {**options, "gtol": options["gtol"] * 1e-3, "maxiter": 50}
    further = scipy.optimize.minimize(evaluate, theta.flatten().numpy(), jac=True, method="L-BFGS-B", options=finer)
    step = torch.from_numpy(further.x).reshape(theta.shape) - theta
    far = theta + 10 * step
    return bool(step.abs().max() > 0.1 * theta.abs().max()) and bool((problem.losses(far) < losses + 0.02).all())


def _conjugate_gradients(evaluate: Callable[..., Any], zeros: Tensor, start: Tensor, tol: float, max_iter: int) -> Solution:
    """Find the zero of a gradient that is linear in `theta` and the targets."""
    iterations = itertools.count()
    size = start.numel()
    hessian = LinearOperator((size, size), lambda theta: evaluate(theta.ravel(), zeros)[1], dtype=numpy.float64)
    right = -evaluate(numpy.zeros(size))[1]
    # The tighter tolerance takes one or two more iterations, and makes the result independent of the order of summation.
    options = {"rtol": 0.0, "atol": tol * 1e-4, "maxiter": max_iter, "callback": lambda theta: next(iterations)}
    found, unfinished = cg(hessian, right, start.flatten().numpy(), **options)
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
