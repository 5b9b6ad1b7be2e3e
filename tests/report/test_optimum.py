"""The interval of the best q has its nominal coverage, also for few seeds, and claims nothing beyond the grid."""

import itertools
import math

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sparseout.report.optimum import _Moments, interaction, optimum, sentence

Q = (1, 1.5, 2, 2.5, 3)


def simulated(generator, trials, seeds, best, noise):
    """Scores (trials, seeds, q): a quadratic with its optimum at `best`, a common part of each seed, and noise."""
    curve = (numpy.array(Q) - best) ** 2
    return curve + 5 * generator.normal(size=(trials, seeds, 1)) + noise * generator.normal(size=(trials, seeds, len(Q)))


def optima(scores, better="low"):
    return [optimum(dict(enumerate(trial)), Q, better) for trial in scores]


def coverage(found, truth):
    return numpy.mean([each.low <= truth <= each.high for each in found])


@pytest.mark.parametrize("seeds", [5, 10])
def test_coverage(seeds):
    check_coverage(seeds, trials=1000, tolerance=0.025)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [5, 10])
def test_coverage_is_within_1_percent(seeds):
    check_coverage(seeds, trials=10_000, tolerance=0.01)


def check_coverage(seeds, trials, tolerance):
    generator = numpy.random.default_rng(seeds)
    for noise in (0.02, 0.2):
        first = optima(simulated(generator, trials, seeds, 2.3, noise))
        second = optima(simulated(generator, trials, seeds, 1.7, noise / 2))
        assert coverage(first, 2.3) == pytest.approx(0.95, abs=tolerance)
        differences = [interaction(a, b) for a, b in zip(first, second, strict=True)]
        assert coverage(differences, 0.6) == pytest.approx(0.95, abs=tolerance)


@pytest.mark.parametrize("best", [0.4, 1.0, 1.7, 3.5])
def test_coverage_is_never_below_nominal_where_the_data_say_little(best):
    generator = numpy.random.default_rng(0)
    found = optima(simulated(generator, 1000, 5, best, 1.0))
    assert coverage(found, min(max(best, 1), 3)) > 0.95 - 0.025
    other = optima(simulated(generator, 1000, 5, 2.0, 0.3))
    differences = [interaction(a, b) for a, b in zip(found, other, strict=True)]
    assert coverage(differences, min(max(best, 1), 3) - 2) > 0.95 - 0.025


def test_a_line_and_a_hill_have_their_optimum_at_an_edge():
    generator = numpy.random.default_rng(0)
    for scores, edge in ((lambda q: q, 1), (lambda q: -q, 3), (lambda q: -((q - 1.8) ** 2), 3)):
        values = [[scores(q) for q in Q]] * 6 + 0.02 * generator.normal(size=(6, 5))
        found = optimum(dict(enumerate(values)), Q)
        assert (found.value, found.at_edge) == (edge, 6)
        assert found.low <= edge <= found.high
        assert not found.is_curved
    (line,) = optima([[[q + 0.01 * seed for q in Q] for seed in range(3)]])
    assert (line.value, line.low, line.high) == (1, 1, 1)


def test_the_limits_are_where_the_t_test_of_the_derivative_is_at_its_quantile():
    scores = simulated(numpy.random.default_rng(3), 1, 5, 1.9, 0.1)[0]
    found = optimum(dict(enumerate(scores)), Q)
    for limit in (found.low, found.high):
        derivatives = [2 * a * limit + b for a, b, _ in (numpy.polyfit(Q, row, 2) for row in scores)]
        assert stats.ttest_1samp(derivatives, 0).pvalue == pytest.approx(0.05)
    assert found.per_seed == pytest.approx([-b / (2 * a) for a, b, _ in (numpy.polyfit(Q, row, 2) for row in scores)])
    a, b, _ = numpy.polyfit(Q, scores.mean(0), 2)
    assert found.value == pytest.approx(-b / (2 * a))


def test_every_q_that_the_t_test_does_not_reject_is_in_the_interval():
    generator = numpy.random.default_rng(5)
    unresolved = 0
    for trial in simulated(generator, 300, 4, 2.6, 0.7):
        found = optimum(dict(enumerate(trial)), Q)
        b, a = numpy.array(found.coefficients).T  # about the centre, q = 2
        tried = numpy.linspace(1, 3, 41)
        accepted = tried[stats.ttest_1samp(b + 2 * a * (tried[:, None] - 2), 0, axis=1).pvalue > 0.05]
        assert all((found.low <= accepted) & (accepted <= found.high))
        unresolved += not found.is_curved and (found.low, found.high) != (1, 3)
    assert unresolved > 10
    for x in (-1, 0.3):
        mean, error = _Moments(numpy.stack([b, a], 1)).derivative(x)
        assert (mean, error) == (pytest.approx(numpy.mean(b + 2 * a * x)), pytest.approx(stats.sem(b + 2 * a * x)))


def test_the_interaction_is_welchs_if_all_seeds_have_one_curvature():
    generator = numpy.random.default_rng(1)
    tasks = [1.6 + 0.1 * generator.normal(size=5), 2.2 + 0.02 * generator.normal(size=8)]
    first, second = (optimum({seed: [(q - best) ** 2 for q in Q] for seed, best in enumerate(task)}, Q) for task in tasks)
    found = interaction(second, first)
    expected = stats.ttest_ind(tasks[1], tasks[0], equal_var=False)
    assert found.value == pytest.approx(tasks[1].mean() - tasks[0].mean())
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)), rel=1e-6)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(2, 8), st.floats(0.01, 2), st.floats(0.01, 100), st.floats(-100, 100))
def test_symmetries(random, seeds, noise, factor, shift):
    generator = numpy.random.default_rng(random)
    scores = simulated(generator, 1, seeds, 1.5, noise)[0]
    found = optimum(dict(enumerate(scores)), Q)
    assert found.grid[0] <= found.low <= found.value <= found.high <= found.grid[1]
    ends = pytest.approx((found.value, found.low, found.high), abs=1e-5)

    def same(other, map=lambda low, value, high: (value, low, high)):
        assert map(other.low, other.value, other.high) == ends

    order = generator.permutation(5)
    same(optimum(dict(enumerate(scores[:, order])), numpy.array(Q)[order]))
    same(optimum({seed: scores[seed] for seed in generator.permutation(seeds).tolist()}, Q))
    same(optimum(dict(enumerate(factor * scores + shift)), Q))
    same(optimum(dict(enumerate(-scores)), Q, "high"))
    same(optimum(dict(enumerate(scores[:, ::-1])), Q), lambda low, value, high: (4 - value, 4 - high, 4 - low))
    other = optimum(dict(enumerate(simulated(generator, 1, 4, 2.2, noise)[0])), Q)
    there, back = interaction(found, other), interaction(other, found)
    assert (there.value, there.low, there.high) == pytest.approx((-back.value, -back.high, -back.low))
    assert there.low <= there.value <= there.high
    assert interaction(found, found).value == 0


def test_missing_scores_and_single_seeds():
    scores = {0: [1, 0, 1], 1: [1, None, 1], 2: [2, math.nan, 2]}
    found = optimum(scores, [1, 2, 3])
    assert (found.value, found.seeds, found.missing) == (2, 1, 2)
    assert math.isnan(found.low)
    assert math.isnan(interaction(found, found).low)
    assert sentence(found, "loss") == "loss is best at q = 2, 1 seed (2 more lack a score): too few seeds for an interval."


def test_equal_scores_have_no_optimum():
    found = optimum({seed: [0.1 * seed] * 5 for seed in range(3)}, Q)
    assert math.isnan(found.value)
    assert (found.low, found.high) == found.grid
    assert sentence(found, "loss") == "all scores are equal, 3 seeds, so there is no optimum."


@pytest.mark.parametrize(
    ("scores", "q", "better", "message"),
    [
        ({0: [1, 2]}, [1, 2], "low", "q must contain at least three different finite values"),
        ({0: [1, 2, 3]}, [1, 2, 2], "low", "q must contain at least three"),
        ({0: [1, 2, 3]}, [1, 2, math.inf], "low", "q must contain at least three"),
        ({7: [1, 2]}, [1, 2, 3], "low", "3 scores for seed 7, one for each q, got 2"),
        ({0: [1, None, 2]}, [1, 2, 3], "low", "must have a seed with all scores, got 1 seeds without"),
        ({}, [1, 2, 3], "low", "must have a seed with all scores, got 0 seeds without"),
        ({0: [1, 2, 3]}, [1, 2, 3], "lower", "better must be one of"),
    ],
)
def test_refused_input(scores, q, better, message):
    with pytest.raises(ValueError, match=message):
        optimum(scores, q, better)


def test_sentences_claim_no_more_than_the_interval_supports():
    def said(best, noise):
        scores = simulated(numpy.random.default_rng(0), 1, 5, best, noise)[0]
        return sentence(optimum(dict(enumerate(scores)), Q), "perplexity")

    assert said(1.6, 0.02).endswith("The optimum lies below Dropout, q = 2.")
    assert said(2.4, 0.02).endswith("The optimum lies above Dropout, q = 2.")
    assert said(2.01, 0.05).endswith("The interval includes Dropout, q = 2.")
    assert said(2, 20).endswith("The data do not say where between 1 and 3 the optimum lies.")
    assert "may lie below 1, where there are no runs" in said(0.9, 0.02)
    for best, noise in itertools.product((0, 2.9), (0.02, 0.5)):
        assert "nan" not in said(best, noise)
