"""The expected loss of a generalized linear model under Sparseout noise, without approximation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from sparseout.checks import check_choice, check_generator, check_number, check_q
from sparseout.glm.families import Family, Name, predictor
from sparseout.glm.penalty import check_arguments, check_p_below_1, odds, powers, second_order
from sparseout.op.functional import sparseout

Method = Literal["closed_form", "enumeration", "monte_carlo"]

_MAX_ENUMERATED_FEATURES = 20
_CHUNK = 2**21  # elements of noisy features in memory at a time


class ExpectedLoss(NamedTuple):
    """An expected loss, averaged over the samples.

    Attributes:
        value: the loss, a 0-d tensor that is differentiable in the arguments.
        standard_error: standard error of `value`; 0 unless the method is `"monte_carlo"`.
    """

    value: Tensor
    standard_error: float


def expected_loss(
    X: Tensor,
    y: Tensor,
    coef: Tensor,
    p: float,
    q: float,
    family: Name,
    intercept: Tensor | float = 0.0,
    *,
    method: Method | None = None,
    draws: int = 1000,
    generator: torch.Generator | None = None,
) -> ExpectedLoss:
    """`1/n sum_i E[loss(sparseout(x_i) coef + intercept, y_i)]`: the mean over the samples of the expectation over the noise.

    The loss is `-log p(y | eta)` without the terms that only depend on `y`:

        Gaussian             (y - eta)^2 / 2
        Bernoulli            log(1 + exp(eta)) - y eta
        multinomial          log(sum_k exp(eta_k)) - eta_y
        Poisson              exp(eta) - y eta
        Gamma, log link      y exp(-eta) + eta

    Three families have closed forms, with `t_j = coef_j sign(x_j) |x_j|^(q/2)`:

        Gaussian   loss(eta) + 1/2 p/(1-p) sum_j t_j^2
        Poisson    exp(eta) prod_j ((1-p) exp(t_j p/(1-p)) + p exp(-t_j)) - y eta
        Gamma      y exp(-eta) prod_j ((1-p) exp(-t_j p/(1-p)) + p exp(t_j)) + eta

    Args:
        X: features, `(samples, features)`, dense.
        y: targets, `(samples,)`; class indices from 0 for `"multinomial"`.
        coef: coefficients, `(features,)`, or `(classes, features)` for `"multinomial"`, with the dtype of `X`.
        p: drop probability in [0, 1).
        q: norm, at least 0.
        family: `"gaussian"`, `"bernoulli"`, `"multinomial"`, `"poisson"` or `"gamma"`.
        intercept: a number, or `(classes,)` for `"multinomial"`. It gets no noise.
        method: `"closed_form"`; `"enumeration"` of all `2^features` masks, for up to 20 features; or `"monte_carlo"`.
            Default: the closed form if the family has one, otherwise enumeration for up to 12 features, otherwise Monte Carlo.
        draws: number of noise samples for each element of `X`, at least 2. Only `"monte_carlo"` uses it.
        generator: random generator for the draws. Default: the default generator of the device of `X`.

    Returns:
        An `ExpectedLoss`.

    Raises:
        TypeError, ValueError: an argument has a wrong type or shape or is out of range, or the method does not apply.

    >>> X, y = torch.tensor([[1.0, -2.0], [0.0, 0.5]]), torch.tensor([1.0, 0.0])
    >>> coef = torch.tensor([1.0, 0.5])
    >>> expected_loss(X, y, coef, p=0.5, q=1.0, family="poisson")
    ExpectedLoss(value=tensor(1.6552), standard_error=0.0)
    """
    chosen = check_arguments(X, coef, intercept, family, y)
    if X.layout != torch.strided:
        raise ValueError(f"X must be dense, got {X.layout}: call X.to_dense() first")
    if family == "multinomial" and not bool(((y >= 0) & (y < len(coef)) & (y == y.round())).all()):
        raise ValueError(f"y must hold class indices from 0 to {len(coef) - 1}, got values from {y.min():g} to {y.max():g}")
    p, q = check_p_below_1(p), check_q(q)
    closed = family == "gaussian" or chosen.sign != 0
    if method is None:
        method = "closed_form" if closed else "enumeration" if X.shape[1] <= 12 else "monte_carlo"
    check_choice("method", method, get_args(Method))
    if method == "closed_form":
        if not closed:
            raise ValueError(f"method must be 'enumeration' or 'monte_carlo' for the family {family!r}, which has no closed form")
        return ExpectedLoss(_closed_form(chosen, X, y, coef, intercept, p, q).mean(), 0.0)
    if method == "enumeration":
        if X.shape[1] > _MAX_ENUMERATED_FEATURES:
            raise ValueError(f"method must be 'monte_carlo' for more than {_MAX_ENUMERATED_FEATURES} features, got {X.shape[1]}")
        weighted = [weights @ _losses(chosen, noisy, y, coef, intercept) for noisy, weights in _all_masks(X, p, q)]
        return ExpectedLoss(torch.stack(weighted).sum(), 0.0)
    check_number("draws", draws, 2, 2**40, "an integer of at least 2")
    if generator is not None:
        check_generator(generator, X.device)
    losses = torch.cat([_losses(chosen, noisy, y, coef, intercept) for noisy in _draws(X, p, q, int(draws), generator)])
    return ExpectedLoss(losses.mean(), losses.detach().std().item() / math.sqrt(len(losses)))


def _closed_form(
    family: Family,
    X: Tensor,
    y: Tensor,
    coef: Tensor,
    intercept: Tensor | float,
    p: float,
    q: float,
) -> Tensor:
    eta = predictor(X, coef, intercept)
    if not family.sign:
        return family.loss(eta, y) + second_order(family, eta, powers(X, q), coef, odds(p), y)
    t = family.sign * coef * X.sign() * powers(X, q / 2)
    dropped = torch.tensor(p, dtype=X.dtype, device=X.device).log()
    factors = torch.logaddexp(math.log1p(-p) + odds(p) * t, dropped - t).sum(-1)
    return (eta + factors).exp() - y * eta if family.sign > 0 else y * (factors - eta).exp() + eta


def _losses(family: Family, noisy: Tensor, y: Tensor, coef: Tensor, intercept: Tensor | float) -> Tensor:
    """Return the mean loss over the samples for each version of the features in `noisy`, `(versions, samples, features)`."""
    return family.loss(predictor(noisy, coef, intercept), y).mean(-1)


def _all_masks(X: Tensor, p: float, q: float) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the features under every mask and the probabilities of the masks, a chunk of masks at a time."""
    step = X.sign() * powers(X, q / 2)
    bits = torch.arange(X.shape[1], device=X.device)
    for numbers in torch.arange(2 ** X.shape[1], device=X.device).split(max(1, _CHUNK // max(1, X.numel()))):
        kept = (numbers[:, None] >> bits & 1).to(X.dtype)
        probabilities = (kept * (1 - p) + (1 - kept) * p).prod(-1)
        yield X + step * (kept / (1 - p) - 1)[:, None], probabilities


def _draws(X: Tensor, p: float, q: float, draws: int, generator: torch.Generator | None) -> Iterator[Tensor]:
    """Yield the features under `draws` random masks of the op, a chunk of masks at a time."""
    chunk = max(1, _CHUNK // max(1, X.numel()))
    for first in range(0, draws, chunk):
        versions = X.expand(min(chunk, draws - first), *X.shape)
        yield sparseout(versions, p, q, gradient="exact", generator=generator)
