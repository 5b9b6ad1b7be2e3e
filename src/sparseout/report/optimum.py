"""The value of `q` with the best score, its interval over seeds, and the difference between two tasks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from sparseout.checks import check_choice
from sparseout.report.statistics import CONFIDENCE

if TYPE_CHECKING:
    import numpy

Better = Literal["low", "high"]


@dataclasses.dataclass(frozen=True)
class Optimum:
    """The `q` with the best expected score among those between the first and the last that were tried.

    Attributes:
        value: the optimum of the mean over seeds of the quadratics; NaN if all scores are equal.
        low, high: its 95 % interval, within the grid. An end at an edge of the grid means no bound on that side.
            NaN for a single seed.
        is_curved: whether the mean quadratic has an optimum rather than a worst point, at 97.5 % confidence.
            Otherwise, the interval relies on the slope alone, and is often the whole grid.
        grid: the smallest and the largest `q`.
        per_seed: the optimum of each seed's own quadratic, in the order of the seeds.
        at_edge: the number of seeds whose optimum is an edge of the grid.
        missing: the number of seeds that were left out because a score is missing.
        coefficients: slope at the centre of the grid, and curvature, of each seed's quadratic; lower is better.
    """

    value: float
    low: float
    high: float
    is_curved: bool
    grid: tuple[float, float]
    per_seed: tuple[float, ...]
    at_edge: int
    missing: int
    coefficients: tuple[tuple[float, float], ...]

    @property
    def seeds(self) -> int:
        """The number of seeds with all scores."""
        return len(self.per_seed)


@dataclasses.dataclass(frozen=True)
class Interaction:
    """The difference between the optima of two tasks.

    Attributes:
        value: the optimum of the first minus that of the second.
        low, high: its 95 % interval; NaN if a task has a single seed.
    """

    value: float
    low: float
    high: float


def optimum(scores_by_seed: Mapping[int, Sequence[float | None]], q: Sequence[float], better: Better = "low") -> Optimum:
    """Return `q* = argmin over [min q, max q] of E[m(q)]`, where `m(q) = c + b q + a q^2` is fitted to the scores of a seed.

    The coefficients of each seed come from least squares. Their means over the seeds give `q* = -b / (2 a)`. It is moved to
    the nearest edge of the grid if it lies outside, and to the better edge if `a <= 0`.

    The interval contains each `q` at which the t test over seeds does not reject that the derivative `b + 2 a q` is zero
    (Fieller, 1954). If the scores of a seed are jointly normal, with any correlation, its coverage is exactly 95 % for any
    number of seeds from two. An interval of the seeds' own optima has no such property: a ratio of two noisy numbers is not
    normal, and the edges pull it to the centre of the grid. A bootstrap of five seeds covers too little.

    If the data leave open whether the curve has an optimum (`is_curved`), an edge is part of the interval unless the slope
    excludes it. The coverage is then more than 95 %.

    Args:
        scores_by_seed: the scores of each seed, one for each `q`. Seeds with a score that is None or not finite are left out.
        q: at least three different values.
        better: `"low"` for losses, `"high"` for accuracies.

    Raises:
        ValueError: there are too few values of `q`, no seed has all scores, or a seed has another number of scores.

    >>> scores = {seed: [(q - 1.5) ** 2 + 0.01 * seed * q for q in (1, 2, 3)] for seed in range(5)}
    >>> found = optimum(scores, [1, 2, 3])
    >>> round(found.value, 3), round(found.low, 3), round(found.high, 3)
    (1.49, 1.48, 1.5)
    """
    import numpy

    check_choice("better", better, ("low", "high"))
    grid = numpy.asarray(q, float)
    if len(set(grid.tolist())) < 3 or not numpy.isfinite(grid).all():
        raise ValueError(f"q must contain at least three different finite values, got {list(q)}")
    for seed, scores in scores_by_seed.items():
        if len(scores) != len(grid):
            raise ValueError(f"scores_by_seed must have {len(grid)} scores for seed {seed}, one for each q, got {len(scores)}")
    rows = [[math.nan if score is None else float(score) for score in scores_by_seed[seed]] for seed in sorted(scores_by_seed)]
    complete = [row for row in rows if all(map(math.isfinite, row))]
    if not complete:
        raise ValueError(f"scores_by_seed must have a seed with all scores, got {len(rows)} seeds without")
    first, last = float(grid.min()), float(grid.max())
    centre, half = (first + last) / 2, (last - first) / 2
    curvatures, slopes, _ = numpy.polyfit(grid - centre, numpy.array(complete).T, 2) * (1 if better == "low" else -1)
    coefficients = _without_rounding(numpy.stack([slopes, curvatures], 1), numpy.abs(complete).max(), half)
    per_seed = [_best(slope, curvature, half) for slope, curvature in coefficients.tolist()]
    moments, quantile = _Moments(coefficients), _quantile(CONFIDENCE, len(complete) - 1)
    low, high = _interval(coefficients, half, quantile)
    return Optimum(
        centre + _best(moments.b, moments.a, half),
        centre + low,
        centre + high,
        moments.is_curved(quantile),
        (first, last),
        tuple(centre + value for value in per_seed),
        sum(abs(value) == half for value in per_seed),
        len(rows) - len(complete),
        tuple((float(b), float(a)) for b, a in coefficients),
    )


def interaction(a: Optimum, b: Optimum) -> Interaction:
    """Return `q*_a - q*_b` of two tasks, whose seeds are independent of each other.

    The interval recovers the variances from the two intervals (Zou and Donner, 2008):
    `low = q*_a - q*_b - sqrt((q*_a - low_a)^2 + (high_b - q*_b)^2)`, and `high` accordingly. `low_a` and `high_b` are
    limits of `optimum`, at the quantile of Student's t with the degrees of freedom of Welch and Satterthwaite. Where the
    limits are symmetric, this is Welch's interval.

    If a task does not determine its optimum within its grid, the interval is the difference of both tasks' intervals, each
    with confidence `sqrt(0.95)`. Its coverage is more than 95 %.

    Args:
        a: the optimum of the first task.
        b: the optimum of the second task.

    >>> scores = {seed: [(q - 2) ** 2 + 0.01 * seed * q for q in (1, 2, 3)] for seed in range(5)}
    >>> flipped = {seed: values[::-1] for seed, values in scores.items()}
    >>> found = interaction(optimum(flipped, [1, 2, 3]), optimum(scores, [1, 2, 3]))
    >>> round(found.value, 3), round(found.low, 3), round(found.high, 3)
    (0.02, 0.008, 0.032)
    """
    import numpy

    value = a.value - b.value
    tasks = [(numpy.array(task.coefficients), (task.grid[1] - task.grid[0]) / 2, sum(task.grid) / 2) for task in (a, b)]
    if min(a.seeds, b.seeds) < 2:
        return Interaction(value, math.nan, math.nan)
    moments = [_Moments(coefficients) for coefficients, _, _ in tasks]
    freedom = _freedom(moments, (a.seeds, b.seeds))
    if freedom is not None:
        quantile = _quantile(CONFIDENCE, freedom)
        limits = [found.limits(quantile) for found in moments]
        inside = [
            ends is not None and -half < ends[0] and ends[1] < half for ends, (_, half, _) in zip(limits, tasks, strict=True)
        ]
        if all(inside):
            (low_a, high_a), (low_b, high_b) = (
                (ends[0] + centre, ends[1] + centre) for ends, (_, _, centre) in zip(limits, tasks, strict=True) if ends
            )
            below, above = math.hypot(a.value - low_a, high_b - b.value), math.hypot(high_a - a.value, b.value - low_b)
            return Interaction(value, value - below, value + above)
    (low_a, high_a), (low_b, high_b) = (
        (end + centre for end in _interval(coefficients, half, _quantile(math.sqrt(CONFIDENCE), len(coefficients) - 1)))
        for coefficients, half, centre in tasks
    )
    return Interaction(value, low_a - high_b, high_a - low_b)


def sentence(best: Optimum, score: str) -> str:
    """Describe an optimum, and what its interval leaves open."""
    first, last = best.grid
    seeds = "1 seed" if best.seeds == 1 else f"{best.seeds} seeds"
    seeds += f" ({best.missing} more lack a score)" if best.missing else ""
    if math.isnan(best.value):
        return f"all scores are equal, {seeds}, so there is no optimum."
    text = f"{score} is best at q = {best.value:.3g}"
    if best.seeds < 2:
        return f"{text}, {seeds}: too few seeds for an interval."
    text += f", 95 % interval {best.low:.3g} to {best.high:.3g}, {seeds}"
    text += f"; the seeds' own optima are {', '.join(f'{value:.3g}' for value in sorted(best.per_seed))}"
    text += f", {best.at_edge} of them at an edge" if best.at_edge else ""
    edges = [f"{word} {edge:g}" for edge, end, word in ((first, best.low, "below"), (last, best.high, "above")) if end == edge]
    if (best.low, best.high) == best.grid:
        return f"{text}. The data do not say where between {first:g} and {last:g} the optimum lies."
    if edges:
        text += f". The optimum may lie {edges[0]}, where there are no runs"
    if best.low <= 2 <= best.high:
        return f"{text}. The interval includes Dropout, q = 2."
    return f"{text}. The optimum lies {'below' if best.high < 2 else 'above'} Dropout, q = 2."


class _Moments:
    """The mean slope `b` and curvature `a` over seeds, and the covariance of these means."""

    def __init__(self, coefficients: numpy.ndarray[Any, Any]) -> None:
        import numpy

        self.b, self.a = map(float, coefficients.mean(0))
        if len(coefficients) < 2:
            self.bb = self.ab = self.aa = math.nan
        else:
            self.bb, self.ab, _, self.aa = map(float, numpy.cov(coefficients.T).flatten() / len(coefficients))

    def derivative(self, x: float) -> tuple[float, float]:
        """Return `b + 2 a x` and its standard error."""
        return self.b + 2 * self.a * x, math.sqrt(max(0.0, self.bb + 4 * x * self.ab + 4 * x * x * self.aa))

    def is_curved(self, quantile: float) -> bool:
        return self.a > quantile * math.sqrt(self.aa)

    def polynomial(self, quantile: float) -> tuple[float, float, float]:
        """Return the coefficients of `derivative^2 - (quantile error)^2`, highest power first. It is positive if rejected."""
        square = quantile * quantile
        highest, middle = self.a * self.a - square * self.aa, self.a * self.b - square * self.ab
        return 4 * highest, 4 * middle, self.b * self.b - square * self.bb

    def limits(self, quantile: float) -> tuple[float, float] | None:
        """Return the smallest and the largest `x` at which a zero derivative is not rejected; None if they are not bounded."""
        if not self.is_curved(quantile):
            return None
        second, first, constant = self.polynomial(quantile)
        root = math.sqrt(max(0.0, first * first - 4 * second * constant))
        return (-first - root) / (2 * second), (-first + root) / (2 * second)


def _interval(coefficients: numpy.ndarray[Any, Any], half: float, quantile: float) -> tuple[float, float]:
    """Return the interval of the optimum within [-half, half]; NaN for a single seed."""
    if len(coefficients) < 2:
        return math.nan, math.nan
    moments = _Moments(coefficients)
    limits = moments.limits(quantile)
    if limits is not None:
        return max(-half, min(limits[0], half)), max(-half, min(limits[1], half))
    slope, error = moments.derivative(0)
    if slope < -quantile * error:
        return _nearest_possible(coefficients, half, quantile), half
    if slope > quantile * error:  # the mirror image
        return -half, -_nearest_possible(coefficients * (-1, 1), half, quantile)
    return -half, half


def _nearest_possible(coefficients: numpy.ndarray[Any, Any], half: float, quantile: float) -> float:
    """Return the smallest possible optimum of scores that improve with `x` at 0 and need not have an optimum."""
    import numpy

    moments = _Moments(coefficients)
    slope, error = moments.derivative(-half)
    if slope >= -quantile * error:
        return -half
    roots = numpy.roots(moments.polynomial(quantile))
    return min([half, *(float(root.real) for root in roots if not root.imag and root.real > 0)])


def _best(slope: float, curvature: float, half: float) -> float:
    """Return the minimum of `slope x + curvature x^2` over [-half, half]; NaN if all values are equal."""
    if curvature > 0:
        return float(max(-half, min(-slope / (2 * curvature), half)))
    if slope == curvature == 0:
        return math.nan
    return -half if slope > 0 else half


def _without_rounding(coefficients: numpy.ndarray[Any, Any], largest: float, half: float) -> numpy.ndarray[Any, Any]:
    """Replace coefficients that are no more than rounding errors of scores up to `largest` by zero."""
    import numpy

    return numpy.where(numpy.abs(coefficients) * (half, half * half) <= 1e-13 * largest, 0.0, coefficients)


def _freedom(moments: Sequence[_Moments], seeds: Sequence[int]) -> float | None:
    """Return Satterthwaite's degrees of freedom of the difference of two optima; None if one has no optimum."""
    if not all(found.a > 0 for found in moments):
        return None
    variances = [(found.derivative(-found.b / (2 * found.a))[1] / (2 * found.a)) ** 2 for found in moments]
    total = sum(variances)
    squares = sum(variance**2 / (count - 1) for variance, count in zip(variances, seeds, strict=True))
    return total**2 / squares if squares > 0 else float(min(seeds) - 1)


def _quantile(confidence: float, freedom: float) -> float:
    from scipy import special

    return float(special.stdtrit(freedom, (1 + confidence) / 2)) if freedom > 0 else math.nan
