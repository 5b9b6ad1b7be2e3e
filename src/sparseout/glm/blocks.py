"""Sums over the samples of a dense design matrix, in blocks of rows that fit the cache.

The power `|x|^q` of a block is computed where it is used, so a pass reads the features from memory once and stores nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy

from sparseout.glm.derivatives import DERIVATIVES

_ELEMENTS = 2**17  # of a block: 1 MiB


class Sums(NamedTuple):
    """`sum_i w_i (loss_i + penalty_i)`, its gradient, and the extreme losses among the samples with positive weight."""

    value: float
    coef: Any
    intercept: float
    smallest_loss: float
    largest_loss: float


class Blocks:
    """The sums of a family with one linear predictor per sample.

    Args:
        family: name of the family.
        X: features, `(samples, features)`.
        weight: sample weights.
        write_powers: writes `|x|^q` of its first argument to its second one.
    """

    def __init__(self, family: str, X: Any, weight: Any, write_powers: Callable[[Any, Any], None]) -> None:
        self.family, self.X, self.weight, self._write_powers = family, X, weight, write_powers
        self._moments: tuple[Any, Any] | None = None

    def moments(self) -> tuple[Any, Any]:
        """Return `sum_i w_i x_ij^2` and `sum_i w_i |x_ij|^q` of each feature."""
        if self._moments is None:
            with numpy.errstate(over="ignore", invalid="ignore"):
                parts = [self._moments_of(*block) for block in self._walk()]
            self._moments = sum(square for square, _ in parts), sum(noise for _, noise in parts)
        return self._moments

    def _moments_of(self, rows: slice, X: Any, power: Any) -> tuple[Any, Any]:
        noise = self.weight[rows] @ power
        return self.weight[rows] @ numpy.multiply(X, X, out=power), noise

    def sums(self, coef: Any, intercept: float, y: Any, odds: float) -> Sums:
        """Return the sums at the given coefficients, for the targets `y`. The first pass also computes the moments."""
        square = coef * coef
        value, slope, extremes, moments = 0.0, 0.0, [], []
        gradient, noise = numpy.zeros_like(coef), numpy.zeros_like(coef)
        constant = self.family == "gaussian" or not odds  # then the penalty is `odds/2 sum_j coef_j^2 noise_j`
        first = self._moments is None
        with numpy.errstate(over="ignore", invalid="ignore"):
            for rows, X, power in self._walk(powers=first or not constant):
                weight = self.weight[rows]
                at = DERIVATIVES[self.family](X @ coef + intercept, y[rows])
                values, slopes = at.loss, at.slope
                if not constant:
                    scale = odds / 2 * (power @ square)
                    values, slopes = values + scale * at.curvature, slopes + scale * at.third
                    noise += (weight * at.curvature) @ power
                slopes = weight * slopes
                value += float(weight @ values)
                slope += float(slopes.sum())
                gradient += slopes @ X
                losses = at.loss[weight > 0]
                extremes += [losses.min(initial=numpy.inf), losses.max(initial=-numpy.inf)]
                if first:
                    moments.append(self._moments_of(rows, X, power))
            if first:
                self._moments = sum(square for square, _ in moments), sum(noise for _, noise in moments)
            if constant:
                noise = self.moments()[1]
                value += odds / 2 * float(square @ noise)
            gradient += odds * coef * noise
        return Sums(value, gradient, slope, float(min(extremes)), float(max(extremes)))

    def hessian(self, coef: Any, intercept: float, y: Any, odds: float) -> Any:
        """Return the second derivatives of `sums` in the coefficients and, last, the intercept."""
        size = len(coef) + 1
        square, result = coef * coef, numpy.zeros((size, size))
        noise, border, half = numpy.zeros_like(coef), numpy.zeros_like(coef), numpy.zeros((len(coef), len(coef)))
        with numpy.errstate(over="ignore", invalid="ignore"):
            for rows, X, power in self._walk():
                weight = self.weight[rows]
                at = DERIVATIVES[self.family](X @ coef + intercept, y[rows])
                own = weight * (at.curvature + odds / 2 * at.fourth * (power @ square))
                noise += (weight * at.curvature) @ power
                power *= coef
                power *= (odds * weight * at.third)[:, None]
                border += own @ X + power.sum(0)
                result[-1, -1] += own.sum()
                power += X * (own / 2)[:, None]
                half += X.T @ power
        result[:-1, :-1] = half + half.T
        result[:-1, -1] = result[-1, :-1] = border
        result[range(size - 1), range(size - 1)] += odds * noise
        return result

    def _walk(self, powers: bool = True) -> Iterator[tuple[slice, Any, Any]]:
        """Yield the rows, the features and the powers of each block. The next block overwrites the powers."""
        samples, features = self.X.shape
        height = max(1, _ELEMENTS // max(1, features))
        order: Any = "F" if self.X.flags.f_contiguous else "C"
        buffer = numpy.empty((min(height, samples), features), order=order)
        for start in range(0, samples, height):
            X = self.X[start : start + height]
            power = buffer[: len(X)]
            if powers:
                self._write_powers(X, power)
            yield slice(start, start + height), X, power
