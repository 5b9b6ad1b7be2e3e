"""The two ways to a minimum: that of the marginalised objective, and averaged gradient descent under drawn noise."""

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
# The longest step of a coefficient, in the problem's units, where the loss is an exponential.
_LONGEST = 0.1
_NO_STEP = (
    "no step lowers the objective any further, as where features or targets differ much in size or a log link lacks an "
    "intercept: scale them, or increase tol or alpha"
)


class Solution(NamedTuple):
    """Where a solver stopped.

    Attributes:
        theta: in the problem's units.
        iterations: of L-BFGS, or passes over the samples.
        failure: why it is not a minimum; empty if it is one.
    """

    theta: Tensor
    iterations: int
    failure: str


def marginal(problem: Problem, start: Tensor, tol: float, max_iter: int) -> Solution:
    """L-BFGS on `problem.marginal` until the largest component of the gradient is at most `tol`.

    The Gaussian objective is quadratic, and rounding hides the last digits of its minimum from a method that compares its
    values: conjugate gradients, which use its gradient alone, find them.
    """

    def evaluate(flat: Any, y: Tensor | None = None) -> tuple[float, Any]:
        theta = torch.from_numpy(flat.copy()).reshape(start.shape).requires_grad_()
        value = problem.marginal(theta, y)
        (gradient,) = torch.autograd.grad(value, theta)
        return value.item(), gradient.flatten().numpy()

    if problem.model.family == "gaussian":
        return _conjugate_gradients(evaluate, torch.zeros_like(problem.y), start, tol, max_iter)
    # A relative change of the objective says little about its gradient: ftol = 0 leaves it out.
    options = {"maxiter": max_iter, "maxls": 50, "gtol": tol, "ftol": 0.0}
    found = scipy.optimize.minimize(evaluate, start.flatten().numpy(), jac=True, method="L-BFGS-B", options=options)
    theta = torch.from_numpy(found.x).reshape(start.shape)
    failure = ""
    if not found.success:
        advice = "increase max_iter or tol" if found.nit >= max_iter else _NO_STEP
        failure = f"L-BFGS stopped after {found.nit} iterations: {found.message}; {advice}"
    elif problem.model.alpha == 0 and (_separates(problem, theta) or _runs_away(problem, theta, evaluate, options)):
        failure = (
            f"after {found.nit} iterations the objective goes on falling, ever more slowly, as the coefficients grow, because "
            "features separate the samples: its minimum lies at infinity; alpha > 0 gives a finite one"
        )
    return Solution(theta, int(found.nit), failure)


def _separates(problem: Problem, theta: Tensor) -> bool:
    """Whether every sample is classified rightly, and larger coefficients lower the objective."""
    if problem.family.sign:
        return False
    return bool(problem.losses(theta).max() < math.log(2)) and bool(problem.marginal(2 * theta) < problem.marginal(theta))


def _runs_away(problem: Problem, theta: Tensor, evaluate: Callable[..., Any], options: Mapping[str, Any]) -> bool:
    """Whether a flat stretch passed for a minimum: the coefficients go far on, and far beyond that no sample fits worse."""
    losses = problem.losses(theta)
    if problem.family.needs_y or losses.min() > 0.01:  # without a sample that fits almost fully nothing pulls so far
        return False
    finer = {**options, "gtol": options["gtol"] * 1e-3, "maxiter": 50}
    further = scipy.optimize.minimize(evaluate, theta.flatten().numpy(), jac=True, method="L-BFGS-B", options=finer)
    step = torch.from_numpy(further.x).reshape(theta.shape) - theta
    far = theta + 10 * step
    return bool(step.abs().max() > 0.1 * theta.abs().max()) and bool((problem.losses(far) < losses + 0.02).all())


def _conjugate_gradients(evaluate: Callable[..., Any], zeros: Tensor, start: Tensor, tol: float, max_iter: int) -> Solution:
    """The zero of a gradient that is linear in `theta` and the targets."""
    iterations = itertools.count()
    size = start.numel()
    hessian = LinearOperator((size, size), lambda theta: evaluate(theta.ravel(), zeros)[1], dtype=numpy.float64)
    right = -evaluate(numpy.zeros(size))[1]
    # A few digits more cost an iteration or two, and make the result independent of the order of the sums.
    options = {"rtol": 0.0, "atol": tol * 1e-4, "maxiter": max_iter, "callback": lambda theta: next(iterations)}
    found, unfinished = cg(hessian, right, start.flatten().numpy(), **options)
    failure = f"conjugate gradients stopped after {max_iter} iterations; increase max_iter or tol" if unfinished else ""
    return Solution(torch.from_numpy(found).reshape(start.shape), next(iterations), failure)


def stochastic(problem: Problem, start: Tensor, tol: float, max_iter: int, seed: int) -> Solution:
    """Averaged stochastic gradient descent on `problem.noisy` until a pass moves the average by at most `tol`, relatively.

    The average gives weight to the later iterates, `a_t = a_(t-1) + 3 / (t + 2) (theta_t - a_(t-1))`.

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
                if problem.family.sign:  # An exponential's gradient has no bound: one unlikely draw would throw theta far away.
                    step /= (step.abs().max() / _LONGEST).clamp(min=1)
                theta -= step
                average += 3 / (steps + 2) * (theta - average)
        if not average.isfinite().all():
            raise ValueError("method 'stochastic' diverged: scale the features or the targets down, or use method='marginal'")
        if (average - before).abs().max() <= tol * average.abs().max():
            return Solution(average, epoch, "")
    return Solution(
        average, max_iter, f"the average still moved after {max_iter} passes over the samples; increase max_iter or tol"
    )
