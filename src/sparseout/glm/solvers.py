"""The two ways to a minimum: that of the marginalised objective, and averaged gradient descent under drawn noise."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy
import scipy.optimize
import torch
from scipy.sparse.linalg import LinearOperator, cg
from torch import Tensor

from sparseout.functional import sparseout
from sparseout.glm.problem import Problem

_BATCH = 32


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
    failure = "" if found.success else f"L-BFGS stopped after {found.nit} iterations: {found.message}"
    return Solution(torch.from_numpy(found.x).reshape(start.shape), int(found.nit), failure)


def _conjugate_gradients(evaluate: Callable[..., Any], zeros: Tensor, start: Tensor, tol: float, max_iter: int) -> Solution:
    """The zero of a gradient that is linear in `theta` and the targets."""
    iterations = itertools.count()
    size = start.numel()
    hessian = LinearOperator((size, size), lambda theta: evaluate(theta.ravel(), zeros)[1], dtype=numpy.float64)
    right = -evaluate(numpy.zeros(size))[1]
    # A few digits more cost an iteration or two, and make the result independent of the order of the sums.
    options = {"rtol": 0.0, "atol": tol * 1e-4, "maxiter": max_iter, "callback": lambda theta: next(iterations)}
    found, unfinished = cg(hessian, right, start.flatten().numpy(), **options)
    failure = f"conjugate gradients stopped after {max_iter} iterations" if unfinished else ""
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
                theta -= largest / (1 + largest * steps / 10) ** 0.5 * gradient
                average += 3 / (steps + 2) * (theta - average)
        if not average.isfinite().all():
            raise ValueError("method 'stochastic' diverged: scale the features or the targets down, or use method='marginal'")
        if (average - before).abs().max() <= tol * average.abs().max():
            return Solution(average, epoch, "")
    return Solution(average, max_iter, f"the average still moved after {max_iter} passes over the samples")
