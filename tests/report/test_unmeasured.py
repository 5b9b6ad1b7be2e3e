"""Sentences and cells about runs tell which of them were not measured, in any order."""

import itertools

import pytest

from sparseout.report.settings import Curve, Setting, describe_curve
from sparseout.report.table import _target_cells


def targeted(*achieved):
    runs = [{"control": {"achieved": value, "settled": 0.3, "out_of_reach": False}} for value in achieved]
    return Setting({"regularizer": "sparseout", "target_sparsity": 0.5, "target_measure": "hoyer"}, runs)


def at_q(q, hoyer):
    return Setting({"regularizer": "sparseout", "q": q}, [{"hoyer": hoyer}])


def test_a_sentence_on_targets_counts_the_runs_that_were_not_measured():
    curve = Curve("p 0.5", [targeted(0.49, None, 0.5)])
    measured = "Hoyer sparseness on the test data is within 0.010 of the target 0.5"
    assert describe_curve(curve) == f"p 0.5: {measured}, 2 runs (not measured: 1 more)."


@pytest.mark.parametrize(
    ("hoyer", "words"),
    [
        ((0.6, 0.5, 0.4), "decreases strictly with q, from 0.600 at q = 1 to 0.400 at q = 3."),
        (
            (0.6, None, 0.4),
            "decreases strictly with q, from 0.600 at q = 1 to 0.400 at q = 3; it was not measured at 1 other value of q.",
        ),
        ((None, None, 0.4), "0.400 at q = 3; it was not measured at 2 other values of q."),
        ((None, None, None), "was not measured."),
    ],
)
def test_a_sentence_on_q_counts_the_values_that_were_not_measured(hoyer, words):
    curve = Curve("p 0.5", [at_q(q, value) for q, value in enumerate(hoyer, 1)])
    assert describe_curve(curve) == f"p 0.5: Hoyer sparseness {words}"


def test_the_largest_error_is_unknown_if_one_is_in_any_order():
    for achieved in itertools.permutations((0.4, None, 0.5)):
        assert _target_cells(targeted(*achieved)) == ["-", "0.30"]
    assert _target_cells(targeted(0.4, 0.5)) == ["0.100", "0.30"]
