"""A sentence or a cell about runs says which of them were not measured, in whatever order they come."""

import itertools

import pytest

from sparseout.report.settings import Curve, Setting, finding
from sparseout.report.table import _reach


def targeted(*achieved):
    runs = [{"control": {"achieved": value, "settled": 0.3, "out_of_reach": False}} for value in achieved]
    return Setting({"noise": "sparseout", "target_sparsity": 0.5, "target_measure": "hoyer"}, runs)


def at_q(q, hoyer):
    return Setting({"noise": "sparseout", "q": q}, [{"hoyer": hoyer}])


def test_a_sentence_on_targets_counts_the_runs_that_were_not_measured():
    curve = Curve("p 0.5", [targeted(0.49, None, 0.5)])
    assert finding(curve) == "p 0.5: hoyer on the test data is within 0.010 of the target 0.5, 2 runs (not measured: 1 more)."


@pytest.mark.parametrize(
    ("hoyer", "words"),
    [
        ((0.6, 0.5, 0.4), "falls strictly with q, from 0.600 at q = 1 to 0.400 at q = 3."),
        (
            (0.6, None, 0.4),
            "falls strictly with q, from 0.600 at q = 1 to 0.400 at q = 3; at 1 other values of q it was not measured.",
        ),
        ((None, None, 0.4), "0.400 at q = 3; at 2 other values of q it was not measured."),
        ((None, None, None), "was not measured."),
    ],
)
def test_a_sentence_on_q_speaks_of_what_was_measured(hoyer, words):
    curve = Curve("p 0.5", [at_q(q, value) for q, value in enumerate(hoyer, 1)])
    assert finding(curve) == f"p 0.5: Hoyer sparseness {words}"


def test_the_largest_miss_is_unknown_where_one_is_whatever_the_order():
    for achieved in itertools.permutations((0.4, None, 0.5)):
        assert _reach(targeted(*achieved)) == ["-", "0.30"]
    assert _reach(targeted(0.4, 0.5)) == ["0.100", "0.30"]
