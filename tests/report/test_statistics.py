"""Intervals have their nominal coverage, and sentences claim no more than the data support."""

import math

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sparseout.records.identity import unused_settings
from sparseout.report.settings import curves_of, group_by_setting
from sparseout.report.statistics import compare_with_dropout, estimate, score_of

VALUES = st.lists(st.integers(-1000, 1000).map(lambda n: n / 8), min_size=2, max_size=30)


def record(q, seed, score, regularizer="sparseout", measure="accuracy", **changes):
    settings = {"q": q, "p": 0.5, "gradient": "detached", "regularizer": regularizer, **changes}
    unused = unused_settings(regularizer, "target_sparsity" in changes)
    return {"study": "image", "seed": seed, measure: score} | {name: settings[name] for name in settings if name not in unused}


def compared(records, score="accuracy"):
    return compare_with_dropout(group_by_setting(records), score)


def test_a_tuned_setting_does_not_keep_settings_apart():
    p = {1.0: 0.15, 2.0: 0.5, 3.0: 0.8}
    records = [record(q, seed, q + seed / 10 + q * seed / 100, p=p[q]) for q in p for seed in range(3)]
    records += [record(2.0, seed, 1 + seed / 10, regularizer="dropout", p=0.7) for seed in range(3)]
    assert compared(records) == []
    groups = group_by_setting(records, frozenset({"p"}))
    found = compare_with_dropout(groups, "accuracy")
    assert [comparison.label for comparison in found] == ["q = 1", "q = 3", "nn.Dropout"]
    assert [curve.x for curve in curves_of(groups) if curve.axis] == [[1, 2, 3]]


@given(VALUES)
def test_the_interval_is_students(values):
    found = estimate(values)
    assert (found.count, found.mean) == (len(values), pytest.approx(numpy.mean(values)))
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95) if len(set(values)) > 1 else (found.mean, found.mean)
    assert (found.low, found.high) == pytest.approx(tuple(expected), rel=1e-9, abs=1e-9)


def test_too_few_values_have_no_interval():
    assert math.isnan(estimate([]).mean)
    one = estimate([0.5, math.nan])
    assert (one.count, one.mean) == (1, 0.5)
    assert math.isnan(one.low)


def test_the_interval_of_the_paired_difference_has_its_nominal_coverage():
    generator = numpy.random.default_rng(0)
    trials, records = 1000, []
    for trial in range(trials):  # each trial is a study of its own, except for the correction
        common, dropout, other = generator.normal(size=(3, 5))  # the common part of a seed is far larger than the differences
        records += [record(2.0, seed, 10 * common[seed] + dropout[seed], hidden_size=trial) for seed in range(5)]
        records += [record(1.0, seed, 10 * common[seed] + other[seed], hidden_size=trial) for seed in range(5)]
    found = compared(records)
    assert len(found) == trials
    covered = sum(comparison.difference.low <= 0 <= comparison.difference.high for comparison in found)
    assert covered / trials == pytest.approx(0.95, abs=0.02)
    assert sum(comparison.p < 0.05 for comparison in found) == trials - covered
    assert not any(comparison.is_supported() for comparison in found)  # after a correction for a thousand


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(2, 8))
def test_pairs_are_by_seed_and_holm_corrects_for_all_comparisons(random, seeds):
    generator = numpy.random.default_rng(random)
    scores = {q: generator.normal(size=seeds) for q in (1.0, 1.5, 2.0, 3.0)}
    records = [record(q, seed, value) for q, values in scores.items() for seed, value in enumerate(values)]
    found = compared([records[i] for i in generator.permutation(len(records))])
    tests = [stats.ttest_rel(scores[q], scores[2.0]) for q in (1.0, 1.5, 3.0)]
    assert [comparison.p for comparison in found] == pytest.approx([test.pvalue for test in tests])
    assert [comparison.difference.low for comparison in found] == pytest.approx(
        [test.confidence_interval(0.95).low for test in tests]
    )
    corrected, largest = {}, 0.0
    for place, index in enumerate(numpy.argsort([test.pvalue for test in tests])):
        largest = max(largest, min(1.0, (3 - place) * tests[index].pvalue))
        corrected[index] = largest
    assert [comparison.corrected for comparison in found] == pytest.approx([corrected[i] for i in range(3)])


def test_the_effect_size_is_that_of_the_differences():
    records = [record(2.0, seed, 0.0) for seed in range(4)] + [
        record(1.0, seed, value) for seed, value in enumerate((1, 2, 3, 4))
    ]
    (comparison,) = compared(records)
    assert comparison.effect == pytest.approx(2.5 / numpy.std([1, 2, 3, 4], ddof=1) * (1 - 3 / 11))
    (comparison,) = compared([run for run in records if run["seed"] < 2])
    assert math.isnan(comparison.effect)
    assert "effect size" not in comparison.sentence()


def sentence(differences, **changes):
    records = [record(2.0, seed, 0.5, **changes) for seed in range(len(differences))]
    records += [record(1.0, seed, 0.5 + by, **changes) for seed, by in enumerate(differences)]
    (comparison,) = compared(records, changes.get("measure", "accuracy"))
    return comparison.sentence()


def test_sentences_claim_no_more_than_the_interval_supports():
    assert sentence([0.01, 0.02, 0.015, 0.012]).endswith(": the data support a better accuracy.")
    assert sentence([0.01, 0.02, 0.015, 0.012], measure="perplexity").endswith(": the data support a worse perplexity.")
    assert sentence([-0.01, -0.02, -0.015], measure="test_loss").endswith(": the data support a better test loss.")
    assert sentence([0.01, -0.02, 0.015]).endswith(": inconclusive, because the interval includes zero.")
    assert sentence([0.01]) == "q = 1 against Dropout: too few seeds for a comparison, 1 in common."
    assert "no difference in accuracy in any of 2 seeds" in sentence([0.0, 0.0])


def test_a_difference_that_the_correction_removes_is_inconclusive():
    generator = numpy.random.default_rng(0)
    records = [record(2.0, seed, 0.0) for seed in range(4)]
    records += [record(1.0, seed, value) for seed, value in enumerate((0.8, 1.0, 1.2, 2.0))]
    records += [record(3 + i, seed, value) for i in range(20) for seed, value in enumerate(generator.normal(size=4))]
    first = compared(records)[0]
    assert first.p < 0.05 < first.corrected
    assert first.difference.low > 0
    assert first.sentence().endswith(
        "inconclusive, because the corrected test does not reject zero, although the interval excludes it."
    )


def test_runs_without_a_score_are_left_out_and_counted():
    records = [record(2.0, seed, 0.5) for seed in range(3)] + [record(1.0, 0, None), record(1.0, 1, 0.6), record(1.0, 2, 0.7)]
    (comparison,) = compared(records)
    assert (comparison.difference.count, comparison.missing) == (2, 1)
    assert "over 2 seeds (1 more have no accuracy)" in comparison.sentence()


def test_only_settings_that_are_equal_otherwise_are_compared():
    records = [record(q, seed, q + seed, p=p) for q in (1.0, 2.0) for p in (0.3, 0.5) for seed in (0, 1)]
    records += [record(2.0, seed, seed, regularizer="none", p=0.0) for seed in (0, 1)]
    records += [record(2.0, seed, seed, regularizer="dropout", p=0.3) for seed in (0, 1)]
    assert [comparison.label for comparison in compared(records)] == [
        "q = 1 (p 0.3)",
        "nn.Dropout (p 0.3)",
        "no noise (p 0.3)",
        "q = 1 (p 0.5)",
        "no noise (p 0.5)",
    ]


def test_dropout_itself_is_the_baseline_without_q_2():
    records = [record(1.0, seed, seed**2) for seed in (0, 1, 2)] + [
        record(2.0, seed, 0, regularizer="dropout") for seed in (0, 1, 2)
    ]
    (comparison,) = compared(records)
    assert (comparison.label, comparison.difference.mean) == ("q = 1", pytest.approx(5 / 3))


def test_baselines_that_differ_only_in_the_gradient_are_one_for_settings_without_a_gradient():
    records = [
        record(q, seed, q + seed**2, gradient=gradient) for gradient in ("detached", "exact") for q in (1, 2) for seed in (0, 1)
    ]
    records += [record(2.0, seed, 0, regularizer="none") for seed in (0, 1)]
    assert [comparison.label for comparison in compared(records)] == [
        "q = 1 (gradient detached)",
        "no noise",
        "q = 1 (gradient exact)",
    ]


def test_the_score_is_the_studys():
    assert score_of([{"test_loss": 1, "accuracy": 0.5}]) == "accuracy"
    assert score_of([{"test_loss": 1, "perplexity": 9}]) == "perplexity"
    assert score_of([{"test_loss": 1}]) == score_of([]) == "test_loss"
