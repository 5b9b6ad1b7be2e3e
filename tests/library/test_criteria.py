"""The six criteria of Hurley and Rickard (2009): a property test per yes in docs/measures.md, a counterexample per no."""

import re
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from sparseout import metrics

# Bound on the rounding error of float64 measures of vectors of at most 8 small integers.
MARGIN = 1e-12

ROBIN_HOOD, SCALING, RISING_TIDE = "Robin Hood", "Scaling", "Rising tide"
CLONING, BILL_GATES, BABIES = "Cloning", "Bill Gates", "Babies"
CRITERIA = (ROBIN_HOOD, SCALING, RISING_TIDE, CLONING, BILL_GATES, BABIES)


def minus_participation_ratio(x):
    """Return a value that is larger for sparser vectors, as the criteria require."""
    return -metrics.participation_ratio(x)


MET = {
    metrics.hoyer: {ROBIN_HOOD, SCALING, RISING_TIDE, BILL_GATES, BABIES},
    metrics.gini: set(CRITERIA),
    metrics.zeros: {SCALING, CLONING, BABIES},
    metrics.kurtosis: {SCALING, RISING_TIDE, BILL_GATES},
    metrics.treves_rolls: set(CRITERIA),
    minus_participation_ratio: {SCALING, RISING_TIDE, BILL_GATES},
}

VECTORS = st.lists(st.integers(0, 20), min_size=2, max_size=8).filter(any)


def score(measure, values):
    return measure(torch.tensor(values, dtype=torch.float64)).item()


def meeting(criterion):
    return pytest.mark.parametrize("measure", [measure for measure, met in MET.items() if criterion in met])


@meeting(ROBIN_HOOD)
@given(c=VECTORS, share=st.floats(0.05, 0.95), data=st.data())
def test_taking_from_the_rich_for_the_poor_makes_less_sparse(measure, c, share, data):
    rich, poor = data.draw(st.permutations(range(len(c))))[:2]
    assume(c[rich] > c[poor])
    amount = share * (c[rich] - c[poor]) / 2
    fairer = [v - amount * (i == rich) + amount * (i == poor) for i, v in enumerate(c)]
    assert score(measure, fairer) < score(measure, c) - MARGIN


@meeting(SCALING)
@given(c=VECTORS, factor=st.floats(1e-3, 1e3))
def test_scaling_changes_nothing(measure, c, factor):
    assert score(measure, [factor * v for v in c]) == pytest.approx(score(measure, c), abs=MARGIN)


@meeting(RISING_TIDE)
@given(c=VECTORS.filter(lambda c: len(set(c)) > 1), amount=st.floats(0.01, 50))
def test_adding_the_same_to_all_makes_less_sparse(measure, c, amount):
    assert score(measure, [v + amount for v in c]) < score(measure, c) - MARGIN


@meeting(CLONING)
@given(c=VECTORS, copies=st.integers(2, 4))
def test_twins_change_nothing(measure, c, copies):
    assert score(measure, c * copies) == pytest.approx(score(measure, c), abs=MARGIN)


@meeting(BILL_GATES)
@given(c=VECTORS, more=st.floats(0.1, 10), data=st.data())
def test_one_unit_that_grows_beyond_bounds_makes_sparser(measure, c, more, data):
    i = data.draw(st.integers(0, len(c) - 1))
    assume(sum(c) > c[i])  # a single active unit is already the sparsest vector
    rich = 1 + sum(c)
    score_at = [score(measure, [*c[:i], c[i] + wealth, *c[i + 1 :]]) for wealth in (rich, rich * (1 + more))]
    assert score_at[1] > score_at[0] + MARGIN


@meeting(BABIES)
@given(c=VECTORS)
def test_a_new_unit_that_is_zero_makes_sparser(measure, c):
    assume(score(measure, c) < 1 - MARGIN)  # nothing is sparser than 1
    assert score(measure, [*c, 0]) > score(measure, c) + MARGIN


# The scores of the two vectors of each counterexample contradict the criterion.
COUNTEREXAMPLES = {
    (metrics.hoyer, CLONING): ([1, 0], [1, 0, 1, 0]),
    (metrics.zeros, ROBIN_HOOD): ([3, 1], [2.5, 1.5]),
    (metrics.zeros, RISING_TIDE): ([1, 2], [2, 3]),
    (metrics.zeros, BILL_GATES): ([1, 10], [1, 20]),
    (metrics.kurtosis, ROBIN_HOOD): ([10, 2, 1], [10, 1.6, 1.4]),
    (metrics.kurtosis, CLONING): ([1, 0], [1, 0, 1, 0]),
    (metrics.kurtosis, BABIES): ([1, 2], [1, 2, 0]),
    (minus_participation_ratio, ROBIN_HOOD): ([10, 2, 1], [10, 1.6, 1.4]),
    (minus_participation_ratio, CLONING): ([1, 0], [1, 0, 1, 0]),
    (minus_participation_ratio, BABIES): ([1, 2], [1, 2, 0]),
}


@pytest.mark.parametrize(("measure", "criterion"), COUNTEREXAMPLES)
def test_a_counterexample_breaks_the_criterion(measure, criterion):
    before, after = (score(measure, c) for c in COUNTEREXAMPLES[measure, criterion])
    if criterion == CLONING:
        assert abs(after - before) > 0.1
    elif criterion in (BILL_GATES, BABIES):
        assert after == pytest.approx(before, abs=MARGIN)
    else:
        assert after >= before


def test_every_no_has_a_counterexample():
    noes = {(measure, criterion) for measure, met in MET.items() for criterion in CRITERIA if criterion not in met}
    assert noes == set(COUNTEREXAMPLES)


def test_a_tolerance_costs_zeros_its_scaling():
    x = torch.tensor([0.5, 5.0])
    assert metrics.zeros(x, tol=1.0) != metrics.zeros(10 * x, tol=1.0)


def test_the_documented_table_is_the_tested_one():
    page = (Path(__file__).parents[2] / "docs" / "measures.md").read_text()
    header, _, *rows = re.findall(r"^\|(.+)\|$", page[page.index("| measure |") :], re.M)[: len(MET) + 2]
    assert [cell.strip() for cell in header.split("|")] == ["measure", *CRITERIA]
    documented = {}
    for row in rows:
        name, *cells = (cell.strip() for cell in row.split("|"))
        documented[name] = {criterion for criterion, cell in zip(CRITERIA, cells, strict=True) if cell == "yes"}
    names = {f"`{measure.__name__.removeprefix('minus_')}`": met for measure, met in MET.items()}
    assert documented == names
