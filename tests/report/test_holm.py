"""Holm's correction agrees with its definition, and with values of statsmodels 0.14."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparseout.report.holm import holm_corrected

VALUES = st.lists(st.floats(0, 1) | st.sampled_from([0.0, 0.01, 0.05, 1.0]), max_size=12)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], []),
        ([0.04], [0.04]),
        ([0.5, 0.9], [1.0, 1.0]),
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.001, 0.001, 0.2, 1.0, 0.0], [0.004, 0.004, 0.4, 1.0, 0.0]),
        ([0.012, 0.6, 0.0004, 0.049, 0.3, 0.012, 0.9], [0.072, 1.0, 0.0028, 0.196, 0.9, 0.072, 1.0]),
    ],
)
def test_the_values_of_statsmodels(values, expected):
    assert holm_corrected(values) == pytest.approx(expected, rel=1e-12)


@given(VALUES, st.floats(0.001, 0.999))
def test_a_hypothesis_is_rejected_as_in_the_step_down_procedure(values, alpha):
    rejected = 0  # hypotheses in the order of their p-values, until the first one that is not rejected
    for value in sorted(values):
        if not min(1.0, (len(values) - rejected) * value) < alpha:
            break
        rejected += 1
    assert sum(corrected < alpha for corrected in holm_corrected(values)) == rejected


@given(VALUES)
def test_the_order_is_kept_and_no_value_becomes_smaller(values):
    corrected = holm_corrected(values)
    assert all(value <= found <= 1 for value, found in zip(values, corrected, strict=True))
    pairs = sorted(zip(values, corrected, strict=True))
    assert [found for _, found in pairs] == sorted(corrected)
