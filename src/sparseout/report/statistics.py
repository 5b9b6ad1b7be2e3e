"""Statistics of a study: the mean of each setting with its interval, and paired comparisons of each setting with Dropout."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import statistics
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sparseout.records.choice import fixed_score
from sparseout.records.identity import TARGET_FIELDS
from sparseout.records.methods import METHOD_SETTINGS, METHODS
from sparseout.records.scores import Better, scores_of, title_of
from sparseout.report.holm import holm_corrected
from sparseout.report.settings import Setting, varying_names

CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean over seeds, with Student's interval `mean +- t std / sqrt(count)`. NaN if there are too few seeds.

    Attributes:
        count: the number of seeds that have a value.
        mean, std: the mean and the sample standard deviation (n - 1).
        low, high: the 95 % confidence interval of the mean.
    """

    count: int
    mean: float
    std: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class PairedComparison:
    """A setting's score minus Dropout's score, over the seeds that both have.

    Attributes:
        label: the name of the setting.
        score: the name of the score.
        better: whether a higher or a lower score is better.
        difference: the estimate of the difference.
        effect: Cohen's d_z of the differences with Hedges' correction for few pairs,
            `mean / std (1 - 3 / (4 (n - 1) - 1))`; NaN for fewer than three pairs.
        p: the p-value of the paired t test; NaN if there is nothing to test.
        corrected: the p-value after Holm's correction for all comparisons of the study.
        comparisons: the number of these comparisons.
        missing: the number of common seeds left out because one run has no score.
    """

    label: str
    score: str
    better: Better
    difference: Estimate
    effect: float
    p: float
    corrected: float
    comparisons: int
    missing: int

    def is_supported(self) -> bool:
        """Return whether the data support a difference: the corrected test rejects that there is none."""
        return self.corrected < 1 - CONFIDENCE

    def sentence(self) -> str:
        """Describe in a sentence whether the data support a difference."""
        name, difference = title_of(self.score), self.difference
        against = f"{self.label} against Dropout"
        missing = f" ({self.missing} more have no {name})" if self.missing else ""
        if difference.count < 2:
            return f"{against}: too few seeds for a comparison, {difference.count} in common{missing}."
        seeds = f"over {difference.count} seeds{missing}"
        if math.isnan(self.p):
            found = f"{name} {difference.mean:+.3g} in each" if difference.mean else f"no difference in {name} in any"
            return f"{against}: {found} of {difference.count} seeds{missing}, so there is nothing to test."
        effect = "" if math.isnan(self.effect) else f"effect size {self.effect:.2g}, "
        found = (
            f"{against}: {name} {difference.mean:+.3g} {seeds}, 95 % interval {difference.low:+.3g} to {difference.high:+.3g}, "
            f"{effect}p = {self.corrected:.2g} after Holm's correction for {self.comparisons} comparisons"
        )
        if self.is_supported():
            better = (difference.mean > 0) == (self.better == "higher")
            return f"{found}: the data support {'a better' if better else 'a worse'} {name}."
        if difference.low <= 0 <= difference.high:
            return f"{found}: inconclusive, because the interval includes zero."
        return f"{found}: inconclusive, because the corrected test does not reject zero, although the interval excludes it."


def score_of(records: Sequence[Mapping[str, Any]], choice: Mapping[str, Any] | None = None) -> str:
    """Return the score by which a study is compared.

    It is the score that the sweep fixed beforehand. A study that was not tuned has its own first one, else the first of `SCORES`
    that its records have.
    """
    recorded = recorded_scores(records)
    if choice and (fixed := fixed_score(choice)) in recorded:
        return fixed
    return next(iter(recorded), "test_loss")


def recorded_scores(records: Sequence[Mapping[str, Any]]) -> dict[str, Better]:
    """Return the scores on test data that records have, with what is better, in the order in which one is chosen."""
    return {name: better for name, better in scores_of(records).items() if any(name in record for record in records)}


def estimate(values: Sequence[float]) -> Estimate:
    """Return the estimate of the mean of the finite values.

    >>> found = estimate([1.0, 2.0, 3.0])
    >>> found.mean, found.std, round(found.low, 3), round(found.high, 3)
    (2.0, 1.0, -0.484, 4.484)
    """
    known = [value for value in values if math.isfinite(value)]
    if len(known) < 2:
        return Estimate(len(known), known[0] if known else math.nan, math.nan, math.nan, math.nan)
    mean, std = statistics.fmean(known), statistics.stdev(known)
    half = _quantile(len(known) - 1) * std / math.sqrt(len(known))
    return Estimate(len(known), mean, std, mean - half, mean + half)


@functools.cache
def _quantile(freedom: int) -> float:
    from scipy import stats

    return float(stats.t.ppf((1 + CONFIDENCE) / 2, freedom))


def compare_with_dropout(settings: Sequence[Setting], score: str) -> list[PairedComparison]:
    """Compare each setting with Dropout: Sparseout with q = 2 and equal other settings, or `nn.Dropout` if there is none.

    Settings with another regularizer are compared with each baseline that shares the settings that both read.

    Args:
        settings: the settings of one study.
        score: the name of a score.
    """
    names = varying_names([setting for setting in settings if setting.axis == "q"])
    better = scores_of(run for setting in settings for run in setting.runs)[score]
    pairs = _pairs(settings)
    scores = {id(setting): dict(zip(_seeds(setting), setting.per_seed(score), strict=True)) for setting in settings}
    both = [_differences(scores[id(other)], scores[id(base)]) for other, base in pairs]
    known = [[difference for difference in differences if math.isfinite(difference)] for differences in both]
    tests = t_tests(known)
    found = []
    for (other, base), differences, all_, p, holm_p in zip(pairs, known, both, tests, holm(tests), strict=True):
        difference, missing = estimate(differences), len(all_) - len(differences)
        label, effect = _label(other, base, names), _effect(difference)
        tested = sum(not math.isnan(p) for p in tests)
        found.append(PairedComparison(label, score, better, difference, effect, p, holm_p, tested, missing))
    return found


def _differences(mine: Mapping[int, float], theirs: Mapping[int, float]) -> list[float]:
    """Return the differences for the seeds that both have."""
    return [value - theirs[seed] for seed, value in mine.items() if seed in theirs]


def _effect(difference: Estimate) -> float:
    if difference.count < 3 or not difference.std > 0:  # two differences do not determine their spread
        return math.nan
    return difference.mean / difference.std * (1 - 3 / (4 * (difference.count - 1) - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values after Holm's correction for all those that are not NaN.

    >>> holm([0.01, math.nan, 0.04])
    [0.02, nan, 0.04]
    """
    tested = [p for p in p_values if not math.isnan(p)]
    corrected = iter(holm_corrected(tested))
    return [math.nan if math.isnan(p) else next(corrected) for p in p_values]


def t_tests(samples: Sequence[Sequence[float]]) -> list[float]:
    """Return the p-value of the t test of each sample against zero, in one call per sample size; NaN if all values are equal."""
    from scipy import stats

    found = [math.nan] * len(samples)
    for size in {len(sample) for sample in samples} - {0, 1}:
        indices = [i for i, sample in enumerate(samples) if len(sample) == size and len(set(sample)) > 1]
        if indices:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # nearly equal differences
                values = stats.ttest_1samp([samples[i] for i in indices], 0, axis=1).pvalue.tolist()
            for i, p in zip(indices, values, strict=True):
                found[i] = p
    return found


def _seeds(setting: Setting) -> list[int]:
    return [run["seed"] for run in setting.runs]


def _pairs(settings: Sequence[Setting]) -> list[tuple[Setting, Setting]]:
    """Pair each setting with each baseline that shares all settings relevant to both, ordered by baseline."""
    order = {id(setting): i for i, setting in enumerate(settings)}
    bases = _baselines(settings)
    pairs = []
    for method, baseline in itertools.product(METHODS, ("sparseout", "dropout")):
        ignored = _differing(method, baseline)
        others: dict[str, list[Setting]] = {}
        for setting in settings:
            if setting.regularizer == method:
                others.setdefault(_key(setting, ignored), []).append(setting)
        seen: set[str] = set()
        for base in bases:
            # Baselines that differ only in the gradient are equal for settings without one: with q = 2 both are Dropout.
            alike = _key(base, {"gradient"})
            if base.regularizer == baseline and (method == "sparseout" or alike not in seen):
                seen.add(alike)
                pairs += [(other, base) for other in others.get(_key(base, ignored), []) if other is not base]
    return sorted(pairs, key=lambda pair: (order[id(pair[1])], order[id(pair[0])]))


def _differing(*regularizers: str) -> frozenset[str]:
    """Return the settings in which runs may differ that are compared: those that not all of their regularizers read."""
    read = set.intersection(*(set(METHODS[name].settings) for name in regularizers))
    return (METHOD_SETTINGS - read) | {"q", "regularizer", *TARGET_FIELDS}


def _baselines(settings: Sequence[Setting]) -> list[Setting]:
    sparseout = [setting for setting in settings if setting.axis == "q" and setting.x == 2]
    ignored = _differing("sparseout", "dropout")
    known = {_key(setting, ignored) for setting in sparseout}
    dropout = [setting for setting in settings if setting.regularizer == "dropout"]
    return sparseout + [setting for setting in dropout if _key(setting, ignored) not in known]


def _key(setting: Setting, ignored: Collection[str]) -> str:
    """Return a key of all settings but the ignored and the tuned ones."""
    return repr(sorted((name, value) for name, value in setting.values.items() if name not in setting.tuned.union(ignored)))


def _label(setting: Setting, baseline: Setting, names: Sequence[str]) -> str:
    """Return the name of the setting, with the settings that distinguish this pair from others."""
    own = f"q = {setting.x:g}" if setting.axis == "q" else setting.name
    if setting.axis == "target_sparsity" and setting.regularizer != "sparseout":
        own = f"{setting.title}, {own}"
    shown = (METHOD_SETTINGS - _differing(setting.regularizer, baseline.regularizer)) | {"p"}
    common = [f"{name} {baseline.get(name)}" for name in names if name in shown or name not in METHOD_SETTINGS]
    return f"{own} ({', '.join(common)})" if common else own


def estimates_table(groups: Sequence[tuple[str, Setting]], score: str) -> tuple[list[str], list[list[str]]]:
    """Return the header and a row per label and setting: count, mean, deviation and interval of score and sparseness."""
    measures = {score: title_of(score), "hoyer": "Hoyer"}
    header = ["setting", "seeds"]
    for title in measures.values():
        header += [title, "std", "95 % interval"]
    return header, [[label, str(len(setting.runs)), *_numbers(setting, list(measures))] for label, setting in groups]


def _numbers(setting: Setting, measures: Sequence[str]) -> list[str]:
    shown = []
    for measure in measures:
        found = estimate(setting.per_seed(measure))
        shown += ["-" if math.isnan(value) else f"{value:.4g}" for value in (found.mean, found.std)]
        shown.append("-" if math.isnan(found.low) else f"{found.low:.4g} to {found.high:.4g}")
    return shown
