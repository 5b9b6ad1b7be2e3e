"""Each measure equals its plain formula, has its limits, and survives input that overflows careless arithmetic."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tolerances import DTYPES

from sparseout import metrics

FORMULAS = {
    metrics.hoyer: lambda c: (len(c) ** 0.5 - sum(c) / math.hypot(*c)) / (len(c) ** 0.5 - 1),
    metrics.gini: lambda c: 1 - 2 * sum(v / sum(c) * (len(c) - k + 0.5) / len(c) for k, v in enumerate(sorted(c), 1)),
    metrics.zeros: lambda c: sum(v == 0 for v in c) / len(c),
    metrics.kurtosis: lambda c: sum(v**4 for v in c) / sum(v**2 for v in c) ** 2,
    metrics.treves_rolls: lambda c: 1 - (sum(c) / len(c)) ** 2 / (sum(v**2 for v in c) / len(c)),
    metrics.participation_ratio: lambda c: sum(v**2 for v in c) ** 2 / sum(v**4 for v in c),
}
MEASURES = list(FORMULAS)
SPARSER_IS_LARGER = [measure for measure in MEASURES if measure is not metrics.participation_ratio]
VALUES = st.floats(-100, 100).filter(lambda v: v == 0 or abs(v) > 1e-3)


@pytest.mark.parametrize("measure", MEASURES)
@given(values=st.lists(VALUES, min_size=2, max_size=20).filter(any))
def test_the_measure_is_its_formula(measure, values):
    x = torch.tensor(values, dtype=torch.float64)
    assert measure(x).item() == pytest.approx(FORMULAS[measure]([abs(v) for v in values]), abs=1e-12)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_half_precision_accumulates_in_float32(measure, dtype):
    x = torch.randn(64, 5000, generator=torch.Generator().manual_seed(0)).relu().to(dtype)
    score = measure(x)
    assert score.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert score.shape == (64,)
    torch.testing.assert_close(score.double(), measure(x.double()), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_squares_neither_overflow_nor_vanish(measure, scale):
    x = torch.tensor([0.0, 1.0, -2.0, 3.0])
    torch.testing.assert_close(measure(x * scale), measure(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("measure", MEASURES)
def test_an_all_zero_vector_scores_1(measure):
    assert measure(torch.zeros(3, 7)).tolist() == [1, 1, 1]


def test_one_unit():
    one = torch.tensor([[3.0], [0.0]])
    assert metrics.hoyer(one).isnan().all()
    assert metrics.gini(one).tolist() == [0, 1]
    assert metrics.treves_rolls(one).tolist() == [0, 1]
    assert metrics.kurtosis(one).tolist() == [1, 1]


@pytest.mark.parametrize(("measure", "flat"), [(metrics.hoyer, 0), (metrics.gini, 0), (metrics.treves_rolls, 0)])
@given(d=st.integers(2, 3000))
def test_a_flat_vector_scores_0_and_never_less(measure, flat, d):
    score = measure(torch.full((d,), 0.1))
    assert flat <= score < 1e-3


def test_one_active_unit_is_the_sparsest():
    x = torch.eye(5)[0]
    assert metrics.hoyer(x) == 1
    assert metrics.gini(x) == pytest.approx(0.8)
    assert metrics.treves_rolls(x) == pytest.approx(0.8)
    assert metrics.kurtosis(x) == 1
    assert metrics.participation_ratio(x) == 1


@pytest.mark.parametrize("measure", [*MEASURES, metrics.dead_units, metrics.lifetime_sparseness])
@pytest.mark.parametrize("dim", [0, 1, 2, -1, -3, (1, 2), (0, -1)])
def test_dim_names_the_units(measure, dim):
    x = torch.randn(3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).relu()
    dims = [d % 3 for d in ((dim,) if isinstance(dim, int) else dim)]
    others = [d for d in range(3) if d not in dims]
    vectors = x.permute(*others, *dims).reshape(math.prod(x.shape[d] for d in others), -1)
    expected = torch.stack([measure(vector, 0) for vector in vectors])
    assert torch.allclose(measure(x, dim).flatten().double(), expected.double())


def test_negative_values_are_not_near_zero():
    assert metrics.zeros(torch.tensor([-5.0, -1e-9, 0.0, 3.0])) == 0.25
    assert metrics.zeros(torch.tensor([-5.0, -1e-9, 0.0, 3.0]), tol=1e-6) == 0.5
    assert metrics.dead_units(torch.tensor([[-5.0], [0.0]])).tolist() == [False]


def test_dead_units_and_lifetime_run_over_samples():
    x = torch.tensor([[0.0, 1.0, 0.1], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    assert metrics.dead_units(x).tolist() == [True, False, False]
    assert metrics.dead_units(x, tol=0.1).tolist() == [True, False, True]
    torch.testing.assert_close(metrics.lifetime_sparseness(x), torch.tensor([1.0, 0.0, 0.75]))


def test_nan_input_gives_nan():
    for measure in (metrics.hoyer, metrics.gini, metrics.kurtosis, metrics.treves_rolls):
        assert measure(torch.tensor([1.0, torch.nan, 0.0])).isnan()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: metrics.hoyer([1.0, 2.0]), TypeError, "x must be a torch.Tensor, got list"),
        (lambda: metrics.gini(torch.ones(3, dtype=torch.complex64)), TypeError, "x must be real"),
        (lambda: metrics.hoyer(torch.ones(3), 1), ValueError, "dim must name dimensions of x, which has 1, got 1"),
        (lambda: metrics.hoyer(torch.ones(3), ()), ValueError, r"dim must .* got \(\)"),
        (lambda: metrics.hoyer(torch.ones(3, 3), (0, -2)), ValueError, "dim must name each dimension once"),
        (lambda: metrics.kurtosis(torch.ones(3, 0)), ValueError, "dim must hold at least one unit"),
        (lambda: metrics.zeros(torch.ones(3), tol=-1), ValueError, "tol must be a number of at least 0, got -1"),
        (lambda: metrics.zeros(torch.ones(3), tol="0"), TypeError, "tol must be"),
    ],
)
def test_bad_input_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_no_samples_give_no_scores():
    assert metrics.hoyer(torch.ones(0, 5)).shape == (0,)


def test_integers_count_as_numbers():
    assert metrics.hoyer(torch.tensor([0, 3])).item() == 1
