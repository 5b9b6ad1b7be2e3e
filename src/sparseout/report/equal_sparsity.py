"""Methods compared with Sparseout at equal measured sparsity, from runs with targets."""

from __future__ import annotations

import dataclasses
import math
import statistics as basic
from collections import Counter
from collections.abc import Mapping, Sequence

from sparseout.metrics import TOLERANCE
from sparseout.records.scores import Better, scores_of, title_of
from sparseout.report.methods import Method, Run, methods_of
from sparseout.report.statistics import CONFIDENCE, Estimate, estimate, holm, t_tests


@dataclasses.dataclass(frozen=True)
class EqualSparsity:
    """The score of a method minus that of Sparseout at equal measured sparsity, over the seeds that both have.

    Attributes:
        method: the label of the method.
        study: the name of the study.
        measure: `"hoyer"` or `"zeros"`.
        target: the target whose sparsity is compared; None for a method without targets, at whose own sparsity Sparseout is.
        score: the name of the score.
        better: whether a higher or a lower score is better.
        difference: the estimate of the paired difference.
        at: the mean sparsity of the comparison; NaN if no seed is compared.
        error: the largest distance of that sparsity from the nearest run of either method, over the seeds.
        settled: the largest settling time of the method's runs with this target, as a fraction of training.
        p, corrected: the p-value of the paired t test, and after Holm's correction for all comparisons of the study.
        left_out: the number of seeds that are not compared, by reason.
    """

    method: str
    study: str
    measure: str
    target: float | None
    score: str
    better: Better
    difference: Estimate
    at: float
    error: float
    settled: float
    p: float
    corrected: float
    left_out: Mapping[str, int]

    @property
    def verdict(self) -> str:
        """What the data support: `better`, `worse`, `undecided`, `equal`, or why there is no test."""
        if self.difference.count < 2:
            return "too few seeds" if self.difference.count else "not compared"
        if math.isnan(self.p):
            return f"{self.difference.mean:+.3g} in each seed" if self.difference.mean else "equal"
        if not self.corrected < 1 - CONFIDENCE:
            return "undecided"
        return "better" if (self.difference.mean > 0) == (self.better == "higher") else "worse"

    def remarks(self) -> list[str]:
        """Return a sentence for each reason why seeds are not compared."""
        seeds = self.difference.count + sum(self.left_out.values())
        place = f"{self.measure} {self.target:g}" if self.target is not None else f"its own {self.measure}"
        return [f"{self.method} at {place}: {reason} in {count} of {seeds} seeds." for reason, count in self.left_out.items()]


def compare_at_equal_sparsity(records: Sequence[Run], score: str) -> list[EqualSparsity]:
    """Return `d(s) = m(s) - m_Sparseout(s)` for each method and each level `s` of measured sparsity, as means over seeds.

    `m(s)` is the score of a method at the sparsity `s`, which is measured on the test data. For each seed, it is interpolated
    linearly between the runs of a method. Nothing is extrapolated: `s` is the target, moved into the range that both methods
    have in this seed. If a method did not come within 0.02 of the target, or the ranges do not overlap, the seed is left out
    and counted. A method without targets is compared at its own sparsity. The interval is Student's, over the paired
    differences of the seeds.

    Args:
        records: the summaries of a study. Methods are compared if all settings but those of the method are equal.
        score: the name of a score.
    """
    methods = methods_of(records)
    pairs = [
        (method, base, target)
        for method in methods
        for base in methods
        if method.name != "sparseout" and base.name == "sparseout" and method.task == base.task
        if method.measure in (None, base.measure)
        for target in (sorted({*method.targets, *base.targets}) if method.targets else [None])
    ]
    better = scores_of(records)[score]
    found = [_compared(method, base, target, score, better) for method, base, target in pairs]
    tests = t_tests([differences for _, differences in found])
    rows = zip((row for row, _ in found), tests, holm(tests), strict=True)
    return [dataclasses.replace(row, p=p, corrected=corrected) for row, p, corrected in rows]


def without_counterpart(records: Sequence[Run]) -> list[str]:
    """Return a sentence for each method that cannot be compared, because no runs of Sparseout share its task and measure."""
    methods = methods_of(records)
    bases = [method for method in methods if method.name == "sparseout"]
    return [
        f"{method.label}: no runs of Sparseout with a target have the same settings and measure."
        for method in methods
        if method.name != "sparseout"
        and not any(method.task == base.task and method.measure in (None, base.measure) for base in bases)
    ]


def _compared(
    method: Method, base: Method, target: float | None, score: str, better: Better
) -> tuple[EqualSparsity, list[float]]:
    """Return a comparison without its test, and its differences."""
    measure = str(base.measure)
    seeds = sorted(method.seeds & base.seeds)
    outcomes = [_of_seed(method, base, seed, target, measure, score) for seed in seeds]
    known = [outcome for outcome in outcomes if not isinstance(outcome, str)]
    differences, places, errors = ([outcome[i] for outcome in known] for i in range(3))
    settled = [run["control"]["settled"] for run in method.select(target_sparsity=target) if "control" in run]
    row = EqualSparsity(
        method.label,
        str(method.task.get("study")),
        measure,
        target,
        score,
        better,
        estimate(differences),
        basic.fmean(places) if places else math.nan,
        max(errors, default=math.nan),
        max(settled, default=math.nan),
        math.nan,
        math.nan,
        Counter(outcome for outcome in outcomes if isinstance(outcome, str)),
    )
    return row, differences


def _of_seed(
    method: Method, base: Method, seed: int, target: float | None, measure: str, score: str
) -> tuple[float, float, float] | str:
    """Return the difference of the scores, the sparsity at which it was taken and its error; or why there is none."""
    import numpy

    curves = []
    for of in (method, base):
        known: dict[float, list[float]] = {}
        for run in of.select(seed=seed):
            x, y = of.sparsity(run, measure), run.get(score)
            if x is not None and y is not None and math.isfinite(x) and math.isfinite(y):
                known.setdefault(x, []).append(y)
            elif run.get("target_sparsity") in (target, None):  # its neighbours must not bridge a run that diverged
                return f"{of.label} was not measured"
        if not known:
            return f"{of.label} was not measured"
        curves.append((sorted(known), [basic.fmean(known[x]) for x in sorted(known)]))
    (mine, _), (theirs, _) = curves
    wanted, tolerance = (mine[0], 0.0) if target is None else (target, TOLERANCE)
    for of, measured in ((method, mine), (base, theirs)):
        if not measured[0] - tolerance <= wanted <= measured[-1] + tolerance:
            return f"{of.label} did not reach it"
    low, high = max(mine[0], theirs[0]), min(mine[-1], theirs[-1])
    if low > high:
        return "the two ranges of measured sparsity do not overlap"
    place = min(max(wanted, low), high)
    first, second = (float(numpy.interp(place, *curve)) for curve in curves)
    error = max(min(abs(place - value) for value in measured) for measured, _ in curves)
    return first - second, place, error


def equal_sparsity_table(comparisons: Sequence[EqualSparsity]) -> tuple[list[str], list[list[str]]]:
    """Return the header and a row per comparison."""
    score = title_of(comparisons[0].score)
    header = ["against Sparseout", "at", "seeds", f"{score} difference", "95 % interval"]
    rows = []
    for row in comparisons:
        found, own = row.difference, row.target is None
        interval = "-" if math.isnan(found.low) else f"{found.low:+.3g} to {found.high:+.3g}"
        place = "-" if own and math.isnan(row.at) else f"{row.measure} {row.at if own else row.target:.3g}"
        mean = "-" if math.isnan(found.mean) else f"{found.mean:+.3g}"
        digits = ("-" if math.isnan(value) else f"{value:.{n}f}" for value, n in ((row.settled, 2), (row.error, 3)))
        rows.append([row.method, place, str(found.count), mean, interval, row.verdict, *digits])
    return [*header, "verdict", "settling time", "largest error"], rows


def equal_sparsity_notes(records: Sequence[Run], comparisons: Sequence[EqualSparsity]) -> list[str]:
    """Return sentences on what the table means, and on what could not be compared."""
    tested = sum(not math.isnan(row.p) for row in comparisons)
    notes = []
    if tested:
        number = "1 comparison" if tested == 1 else f"{tested} comparisons"
        notes.append(f"A verdict is that of the paired t test after Holm's correction for {number}.")
    few = min((row.difference.count for row in comparisons if row.difference.count > 1), default=5)
    if few < 5:
        notes.append(f"Intervals over {few} seeds are wide: more seeds are needed to settle small differences.")
    return [*notes, *without_counterpart(records), *(remark for row in comparisons for remark in row.remarks())]
