"""The exponential families: the loss as a function of the linear predictor, and its second derivative."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from sparseout.checks import check_choice

Name = Literal["gaussian", "bernoulli", "multinomial", "poisson", "gamma"]


@dataclasses.dataclass(frozen=True)
class Family:
    """A distribution of the exponential family, with its link function.

    Attributes:
        loss: `-log p(y | eta)` per sample, without the terms that only depend on `y`.
        curvature: the second derivative of the loss in `eta`; None for the multinomial family, whose Hessian is a matrix.
        needs_y: whether the curvature depends on `y`.
        sign: 1 if the loss is `exp(eta)` plus a linear term, -1 if it is `y exp(-eta)` plus a linear term, 0 otherwise.
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    curvature: Callable[[Tensor, Any], Tensor] | None
    needs_y: bool = False
    sign: int = 0


def _bernoulli_curvature(eta: Tensor, y: Any) -> Tensor:
    return torch.sigmoid(eta) * torch.sigmoid(-eta)


def _multinomial_loss(eta: Tensor, y: Tensor) -> Tensor:
    return eta.logsumexp(-1) - eta.gather(-1, y.long().expand(eta.shape[:-1]).unsqueeze(-1)).squeeze(-1)


FAMILIES: dict[str, Family] = {
    "gaussian": Family(lambda eta, y: (y - eta).square() / 2, lambda eta, y: torch.ones_like(eta)),
    "bernoulli": Family(lambda eta, y: F.softplus(eta) - y * eta, _bernoulli_curvature),
    "multinomial": Family(_multinomial_loss, None),
    "poisson": Family(lambda eta, y: eta.exp() - y * eta, lambda eta, y: eta.exp(), sign=1),
    "gamma": Family(lambda eta, y: y * (-eta).exp() + eta, lambda eta, y: y * (-eta).exp(), needs_y=True, sign=-1),
}


def family_of(name: str) -> Family:
    """Return the family called `name`, or raise."""
    return FAMILIES[check_choice("family", name, get_args(Name))]


def predictor(X: Tensor, coef: Tensor, intercept: Tensor | float) -> Tensor:
    """Return `eta = X coef + intercept`: `(..., samples)`, or `(..., samples, classes)` for a `coef` of `(classes, features)`."""
    return X @ (coef if coef.dim() == 1 else coef.T) + intercept
