"""The penalty equivalent to Sparseout on the features of a generalized linear model, to second order in the noise."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from sparseout.checks import check_choice, check_number, check_q
from sparseout.glm.families import Family, Name, family_of, predictor


def penalty(
    X: Tensor,
    coef: Tensor,
    p: float,
    q: float,
    family: Name,
    intercept: Tensor | float = 0.0,
    *,
    y: Tensor | None = None,
    reduction: Literal["mean", "none"] = "mean",
) -> Tensor:
    """`1/2 p/(1-p) A''(eta_i) sum_j coef_j^2 |x_ij|^q`, `eta = X coef + intercept`: an `L_q` penalty on the features.

    The penalty is the expected loss under the noise minus the loss without noise, to second order in the noise. For the Gaussian
    family it is exact. `A''` is the curvature of the loss:

        Gaussian             1
        Bernoulli            s (1 - s),  s = sigmoid(eta)
        Poisson              exp(eta)
        Gamma, log link      y exp(-eta)

    In the multinomial family with probabilities `pi = softmax(eta_i)` the curvature is the matrix `diag(pi) - pi pi'`, and the
    penalty is `1/2 p/(1-p) sum_j |x_ij|^q (sum_k pi_k coef_kj^2 - (sum_k pi_k coef_kj)^2)`. `q = 2` is the penalty of Dropout.

    Args:
        X: features, `(samples, features)`, dense or sparse COO. A zero gets no noise for any `q`.
        coef: coefficients, `(features,)`, or `(classes, features)` for `"multinomial"`, with the dtype of `X`.
        p: drop probability in [0, 1).
        q: norm, at least 0.
        family: `"gaussian"`, `"bernoulli"`, `"multinomial"`, `"poisson"` or `"gamma"`.
        intercept: a number, or `(classes,)` for `"multinomial"`. It gets no noise.
        y: targets, `(samples,)`. Only `"gamma"` uses them, and requires them.
        reduction: `"mean"` over the samples, or `"none"`.

    Returns:
        A 0-d tensor, or a tensor of `(samples,)`. It is differentiable in `coef`, `intercept` and a dense `X`.

    Raises:
        TypeError, ValueError: an argument has a wrong type or shape, or is out of range.

    Source: Khan and Stavness (2019), arXiv:1904.08050; for `q = 2` Wager, Wang and Liang (2013), *Dropout training as adaptive
    regularization*.

    >>> X = torch.tensor([[1.0, -2.0], [0.0, 0.5]])
    >>> coef = torch.tensor([1.0, 0.5])
    >>> penalty(X, coef, p=0.5, q=1.0, family="gaussian", reduction="none")
    tensor([0.7500, 0.0625])
    """
    chosen = check_arguments(X, coef, intercept, family, y)
    check_choice("reduction", reduction, ("mean", "none"))
    eta = predictor(X, coef, intercept)
    values = second_order(chosen, eta, powers(X, check_q(q)), coef, odds(check_p_below_1(p)), y)
    return values.mean() if reduction == "mean" else values


def check_p_below_1(p: float) -> float:
    """Return `p` as a float, or raise unless it lies in [0, 1). At 1 the variance of the noise is infinite."""
    return check_number("p", p, 0.0, math.nextafter(1, 0), "a drop probability in [0, 1)")


def odds(p: float) -> float:
    """Return `p / (1 - p)`, the variance of the noise."""
    return p / (1 - p)


def powers(X: Tensor, q: float) -> Tensor:
    """Return `|X|^q`, with 0 for a zero in `X` even if `q = 0`, because a zero gets no noise."""
    if X.layout != torch.strided:
        X = X.coalesce()
        values = powers(X.values(), q)
        return torch.sparse_coo_tensor(X.indices(), values, X.shape, is_coalesced=True, check_invariants=False)
    if q > 0 and not X.requires_grad:
        return X.abs().pow_(q)
    zero = X == 0
    # |x|^q may have no derivative at 0, so zeros take no part in it.
    return X.abs().masked_fill(zero, 1).pow(q).masked_fill(zero, 0)


def second_order(family: Family, eta: Tensor, power: Tensor, coef: Tensor, odds: float, y: Tensor | None) -> Tensor:
    """Return the penalty of each sample from `eta`, `power = |X|^q` and `odds = p / (1 - p)`."""
    if family.curvature is not None:
        return odds / 2 * family.curvature(eta, y) * (power @ coef.square())
    probabilities = eta.softmax(-1)
    mean_square = (probabilities * (power @ coef.square().T)).sum(-1)
    if power.layout == torch.strided:
        return odds / 2 * (mean_square - ((probabilities @ coef).square() * power).sum(-1))
    rows, columns = power.indices()
    squared_mean = (probabilities[rows] * coef.T[columns]).sum(-1).square() * power.values()
    return odds / 2 * mean_square.index_add(0, rows, squared_mean, alpha=-1)


def check_arguments(X: Tensor, coef: Tensor, intercept: Tensor | float, family: str, y: Tensor | None) -> Family:
    """Return the family, or raise unless the arguments are valid for it and consistent."""
    chosen = family_of(family)
    for name, value in (("X", X), ("coef", coef)):
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise TypeError(f"{name} must be a floating-point torch.Tensor, got {_kind(value)}")
    if X.dim() != 2 or X.layout not in (torch.strided, torch.sparse_coo) or not len(X):
        raise ValueError(f"X must be (samples, features) with at least one sample, dense or sparse COO, got {tuple(X.shape)}")
    if coef.dtype != X.dtype:
        raise TypeError(f"coef must have the dtype of X, {X.dtype}, got {coef.dtype}")
    classes = (len(coef),) if chosen.curvature is None and coef.dim() else ()
    if coef.shape != (*classes, X.shape[1]):
        wanted = f"({X.shape[1]},)" if chosen.curvature is not None else f"(classes, {X.shape[1]})"
        raise ValueError(f"coef must be {wanted} for the family {family!r}, got {tuple(coef.shape)}")
    if isinstance(intercept, Tensor) and intercept.shape not in ((), classes):
        raise ValueError(f"intercept must be a number{' or (classes,)' if classes else ''}, got {tuple(intercept.shape)}")
    if y is None and chosen.needs_y:
        raise ValueError(f"y must be a torch.Tensor for the family {family!r}, whose penalty depends on the targets, got None")
    if y is not None and (not isinstance(y, Tensor) or y.shape != X.shape[:1]):
        raise ValueError(f"y must be a torch.Tensor of shape ({len(X)},), got {_kind(y)}")
    return chosen


def _kind(value: object) -> str:
    return f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
