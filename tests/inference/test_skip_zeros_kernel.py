"""The kernel's products are the dense ones, for any shape, sparsity, dtype and number of threads."""

import contextlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from library.forked import in_both
from torch.nn import functional

from sparseout.inference import kernel
from sparseout.native import library

compiled = pytest.mark.skipif(library.LIBRARY is None, reason=library.MISSING)
SETS = range(len(library.AVAILABLE))
SIZES = st.integers(1, 70) | st.sampled_from([511, 512, 513, 1100])
COLUMNS = st.integers(0, 70) | st.sampled_from([1023, 1024, 1025, 4099])
ROWS = st.integers(0, 5) | st.sampled_from([63, 64, 65])


def draw(rows, inputs, columns, active, weights=torch.float32, inputs_dtype=torch.float32):
    made = torch.Generator().manual_seed(rows + 7 * inputs + 11 * columns)
    x = torch.randn(rows, inputs, generator=made) * (torch.rand(rows, inputs, generator=made) < active)
    weight = torch.randn(inputs, columns, generator=made).to(weights)
    return x.to(inputs_dtype), weight.t(), torch.randn(columns, generator=made)


def assert_near(ours, x, weight, bias, tolerance=1e-5):
    """Within `tolerance` of float64's, relative to the sum of the magnitudes that were added."""
    exact = x.double() @ weight.double().t() + bias.double()
    size = x.double().abs() @ weight.double().abs().t() + bias.double().abs()
    assert ours.shape == exact.shape
    assert ((ours.double() - exact).abs() <= tolerance * size).all()


@contextlib.contextmanager
def threads(number):
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@compiled
@pytest.mark.parametrize("instruction_set", SETS, ids=library.AVAILABLE)
@given(rows=ROWS, inputs=SIZES, columns=COLUMNS, active=st.floats(0, 1), weights=st.sampled_from(kernel.WEIGHTS))
def test_it_is_the_dense_product(instruction_set, rows, inputs, columns, active, weights):
    x, weight, bias = draw(rows, inputs, columns, active, weights)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "used", instruction_set)
        assert_near(kernel.product(x, weight, bias), x, weight, bias)


@compiled
@pytest.mark.parametrize("instruction_set", SETS, ids=library.AVAILABLE)
@pytest.mark.parametrize("weights", kernel.WEIGHTS)
@pytest.mark.parametrize("rows", [1, 3])
def test_threads_change_nothing(instruction_set, weights, rows):
    x, weight, bias = draw(rows, 1000, 777, 0.4, weights)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "used", instruction_set)
        results = []
        for number in (1, 2, 3):
            with threads(number):
                results.append(kernel.product(x, weight, bias))
    assert_near(results[0], x, weight, bias)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@compiled
@pytest.mark.parametrize("dtype", kernel.INPUTS)
def test_the_output_has_the_inputs_dtype_and_leading_shape(dtype):
    x, weight, bias = draw(6, 40, 9, 0.5, inputs_dtype=dtype)
    y = kernel.product(x.view(2, 3, 40), weight, bias)
    assert y.dtype == dtype
    assert_near(y.view(6, 9), x, weight, bias, 4 * torch.finfo(dtype).eps)
    assert kernel.product(x[0], weight, None).shape == (9,)
    assert_near(kernel.dense(x, weight, bias), x, weight, bias, 4 * torch.finfo(dtype).eps)


@given(rows=st.integers(1, 5), inputs=SIZES, columns=st.integers(1, 70), active=st.floats(0, 1), cutoff=st.floats(0, 2))
def test_the_fallback_in_plain_torch_is_the_dense_product_of_the_cut_inputs(rows, inputs, columns, active, cutoff):
    x, weight, bias = draw(rows, inputs, columns, active)
    cut = x.masked_fill(x.abs() <= cutoff, 0)
    assert_near(kernel.gathered(x, weight, bias, cutoff), cut, weight, bias)
    assert_near(kernel.product(x, weight, bias, cutoff), cut, weight, bias)
    assert_near(kernel.dense(x, weight, bias, cutoff), cut, weight, bias)


def test_without_a_compiled_kernel_plain_torch_computes(monkeypatch):
    monkeypatch.setattr(kernel, "LIBRARY", None)
    for weights in kernel.WEIGHTS:
        x, weight, bias = draw(3, 40, 20, 0.3, weights)
        assert_near(kernel.product(x, weight, bias), x, weight, bias)


def test_inputs_in_any_layout_are_read():
    x, weight, bias = draw(40, 6, 9, 0.5)
    transposed = x.t()
    ones = torch.ones(40, 2).t()
    assert_near(kernel.product(transposed, ones, None), transposed, ones, torch.zeros(2))
    assert_near(kernel.product(x, weight.contiguous(), bias), x, weight, bias)


@pytest.mark.parametrize("product", [kernel.product, kernel.gathered, kernel.dense])
def test_nan_and_inf_in_the_input_reach_the_output_as_in_a_dense_layer(product):
    x, weight, bias = draw(4, 30, 20, 0.5)
    x[0, 3], x[1, 4], x[2, 5], x[2, 6] = torch.nan, torch.inf, torch.inf, -torch.inf
    ours, theirs = product(x, weight, bias), functional.linear(x, weight, bias)
    assert torch.equal(ours.isnan(), theirs.isnan())
    assert torch.equal(ours.isinf(), theirs.isinf())
    assert torch.allclose(ours, theirs, equal_nan=True, atol=1e-5)


@compiled
def test_an_infinite_weight_of_a_zero_input_is_not_read():
    weight = torch.tensor([[torch.inf, torch.nan], [1.0, 2.0]])
    for zero in (0.0, -0.0):
        assert kernel.product(torch.tensor([[zero, 3.0]]), weight.t(), None).tolist() == [[3.0, 6.0]]


def test_more_rows_than_the_limit_get_the_dense_product(monkeypatch):
    x, weight, bias = draw(3, 40, 20, 0.3)
    monkeypatch.setattr(kernel, "dense", lambda *_: "dense")
    assert kernel.product(x, weight, bias, 0.0, 2) == "dense"
    assert kernel.product(x, weight, bias, 0.0, 3) != "dense"


def product_in_threads():
    x, weight, bias = draw(2, 1000, 777, 0.4)
    return kernel.product(x, weight, bias).tolist()


@compiled
def test_a_forked_child_computes_as_its_parent():
    own, childs = in_both(product_in_threads)
    assert own == childs
