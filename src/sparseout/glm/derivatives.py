"""Losses and their derivatives in the linear predictor, in NumPy, for the families with one predictor per sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy
import scipy.special


class Derivatives(NamedTuple):
    """A loss per sample and its derivatives in `eta`: `slope`, `curvature`, and the `third` and `fourth` derivative."""

    loss: Any
    slope: Any
    curvature: Any
    third: Any
    fourth: Any


def _gaussian(eta: Any, y: Any) -> Derivatives:
    zero = numpy.zeros_like(eta)
    return Derivatives((y - eta) ** 2 / 2, eta - y, zero + 1, zero, zero)


def _bernoulli(eta: Any, y: Any) -> Derivatives:
    mean = scipy.special.expit(eta)
    curvature = mean * scipy.special.expit(-eta)
    loss = numpy.logaddexp(0.0, eta) - y * eta
    return Derivatives(loss, mean - y, curvature, curvature * (1 - 2 * mean), curvature * (1 - 6 * curvature))


def _poisson(eta: Any, y: Any) -> Derivatives:
    mean = numpy.exp(eta)
    return Derivatives(mean - y * eta, mean - y, mean, mean, mean)


def _gamma(eta: Any, y: Any) -> Derivatives:
    ratio = y * numpy.exp(-eta)
    return Derivatives(ratio + eta, 1 - ratio, ratio, -ratio, ratio)


DERIVATIVES: dict[str, Callable[[Any, Any], Derivatives]] = {
    "gaussian": _gaussian,
    "bernoulli": _bernoulli,
    "poisson": _poisson,
    "gamma": _gamma,
}
