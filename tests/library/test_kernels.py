"""The compiled kernel equals the reference: the same mask bit for bit, and values within rounding, for any number of threads."""

import ctypes
import functools
import math

import numpy
import pytest
import torch
from forked import in_both
from hypothesis import given
from hypothesis import strategies as st
from tolerances import DTYPES, RTOL
from torch.autograd import forward_ad

import sparseout
from sparseout.native import library
from sparseout.op import backends, cpu, reference
from sparseout.op.settings import Settings

pytestmark = pytest.mark.skipif(library.LIBRARY is None, reason=library.MISSING)

QS = st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 6.0]) | st.floats(0, 8)
SIZES = st.integers(0, 3000) | st.sampled_from([1023, 1024, 1025, 32767, 32768, 32769, 100_003])
GRADIENTS = st.sampled_from(["detached", "exact"])
SEEDS = st.integers(0, 2**63 - 1)
PS = st.floats(0, 1) | st.sampled_from([0.0, 0.5, 1.0, 1e-12, 1 - 1e-12])


def values(size, dtype, scale=1.0):
    return (torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * scale).to(dtype)


@pytest.fixture(scope="module", params=range(len(library.AVAILABLE)), ids=library.AVAILABLE, autouse=True)
def _instruction_set(request):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "used", request.param)
        yield


def test_this_build_has_a_kernel_for_this_machine():
    assert library.MISSING == ""
    assert library.AVAILABLE[0] == "baseline"


@pytest.mark.parametrize("dtype", DTYPES)
@given(size=SIZES, p=PS, q=QS, seed=SEEDS)
def test_forward_is_the_references(dtype, size, p, q, seed):
    x = values(size, dtype)
    ours = cpu.forward(x, seed, Settings(p, q))
    exact = reference.forward(x.double(), seed, Settings(p, q))
    if reference.is_multiplicative(p, q):
        assert torch.equal(ours, reference.forward(x, seed, Settings(p, q)))
    else:
        term = (x.double().abs() ** (q / 2)) * max(p / (1 - p), 1)
        smallest = torch.finfo(dtype).smallest_normal * RTOL[dtype]
        assert ((ours.double() - exact).abs() <= RTOL[dtype] * torch.maximum(x.double().abs(), term) + smallest).all()


@pytest.mark.parametrize("dtype", DTYPES)
@given(size=SIZES, p=st.floats(0, 0.99), q=QS, seed=SEEDS, gradient=GRADIENTS)
def test_backward_is_the_references(dtype, size, p, q, seed, gradient):
    x, grad = values(size, dtype), values(size, dtype, 0.5).flip(0).contiguous()
    eps = 1e-4 if dtype == torch.float16 else 1e-6
    ours = cpu.backward(grad, x, seed, Settings(p, q, 1.0, gradient, eps))
    exact = reference.backward(grad.double(), x.double(), seed, Settings(p, q, 1.0, gradient, eps))
    if reference.is_multiplicative(p, q):
        assert torch.equal(ours, reference.backward(grad, x, seed, Settings(p, q, 1.0, gradient, eps)))
        assert torch.equal(ours, cpu.backward(grad, None, seed, Settings(p, q, 1.0, gradient, eps)))
    else:
        power = (x.double().abs() + eps) ** ((q - 2) / 2) * max(1, q / 2) * max(p / (1 - p), 1)
        smallest = torch.finfo(dtype).smallest_normal * RTOL[dtype]
        assert ((ours.double() - exact).abs() <= 2 * RTOL[dtype] * grad.double().abs() * (1 + power) + smallest).all()


@functools.cache
def many_exact_results(q):
    """Return many inputs, and the reference's output and gradient for each; the instruction sets share them."""
    x = torch.logspace(-30, 6, 200_001, dtype=torch.float64).float()
    x = torch.cat([x, -x])
    settings = Settings(0.5, q)
    return x, reference.forward(x.double(), 3, settings), reference.backward(torch.ones_like(x).double(), x.double(), 3, settings)


@pytest.mark.parametrize("q", [0.3, 0.5, 0.7, 1.0, 1.1, 1.5, 1.7, 1.9, 2.2, 2.5, 2.7, 3.0, 3.3, 3.5, 4.4])
def test_any_exponent_errs_by_at_most_6_ulp_in_float32(q):
    x, y, grad = many_exact_results(q)
    ulp, settings = torch.finfo(torch.float32).eps, Settings(0.5, q)
    largest = torch.maximum(x.double().abs(), x.double().abs() ** (q / 2))
    assert ((cpu.forward(x, 3, settings) - y).abs() <= 6 * ulp * largest.clamp_min(1e-38)).all()
    largest = ((x.double().abs() + 1e-6) ** ((q - 2) / 2)).clamp_min(1)
    assert ((cpu.backward(torch.ones_like(x), x, 3, settings) - grad).abs() <= 6 * ulp * largest).all()


@pytest.mark.parametrize("q", [0.3, 0.7, 1.1, 1.7, 1.9, 2.2, 2.7, 3.3, 4.4, 6.1, 7.9])
def test_any_exponent_errs_by_at_most_3_ulp_in_float64(q):
    x = torch.cat([torch.logspace(-75, 75, 20_001, dtype=torch.float64), values(10_000, torch.float64), torch.zeros(3).double()])
    noise = numpy.where(reference.keep_mask(x.shape, 0.5, seed=3), 1, -1)
    ulp, settings, size = torch.finfo(torch.float64).eps, Settings(0.5, q), numpy.abs(x.numpy().astype(numpy.longdouble))
    power, factor = size ** (q / 2), (x.abs() + 1e-6).numpy().astype(numpy.longdouble) ** ((q - 2) / 2)
    error = numpy.abs(cpu.forward(x, 3, settings).numpy() - numpy.sign(x.numpy()) * (size + power * noise))
    assert (error <= 3 * ulp * numpy.maximum(size, power)).all()
    error = numpy.abs(cpu.backward(torch.ones_like(x), x, 3, settings).numpy() - (1 + factor * noise))
    assert (error <= 3 * ulp * numpy.maximum(1, factor)).all()


@pytest.mark.parametrize("q", [0.3, 1.7, 3.3])
def test_extreme_numbers_have_the_references_powers_in_float64(q):
    x = torch.tensor([0.0, -0.0, 5e-324, 1e-310, -1e-305, 1e300, -1e302, math.inf, -math.inf, math.nan, 1.0], dtype=torch.float64)
    for scale in (1.0, 1e-5):
        settings = Settings(0.5, q, scale)
        torch.testing.assert_close(
            cpu.forward(x, 3, settings), reference.forward(x, 3, settings), rtol=1e-14, atol=0, equal_nan=True
        )


@pytest.mark.parametrize("q", [0.5, 1.0, 1.5, 2.5, 3.0, 3.5])
@pytest.mark.parametrize("eps", [1e-45, 1e-6])
def test_square_roots_of_extreme_numbers_in_float32(q, eps):
    numbers = [0.0, -0.0, 1e-45, 1e-40, -1.2e-38, 3e38, -3.4e38, math.inf, -math.inf, math.nan, 1.0]
    x, settings = torch.tensor(numbers).repeat(7), Settings(0.5, q, 1.0, "detached", eps)
    grad = torch.full_like(x, 0.5)
    wanted = reference.forward(x, 3, settings), reference.backward(grad, x, 3, settings)
    found = cpu.forward(x, 3, settings), cpu.backward(grad, x, 3, settings)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("q", [1.0, 1.7, 2.0])
def test_the_mask_is_the_same_on_any_number_of_threads(dtype, q):
    x = torch.full((300_001,), 4.0, dtype=dtype)
    kept = reference.keep_mask(x.shape, 0.3, seed=-5)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 7):
            torch.set_num_threads(threads)
            assert torch.equal(cpu.forward(x, -5, Settings(0.3, q)) > 4, kept)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_half_precision_number_passes_through(dtype):
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    same = cpu.forward(every, 0, Settings(0.0, 1.5))
    assert torch.equal(same.isnan(), every.isnan())
    assert torch.equal(same[~every.isnan()].view(torch.int16), every[~every.isnan()].view(torch.int16))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@given(scale=st.floats(0.5, 1, exclude_max=True))
def test_half_precision_rounds_as_torch_does(dtype, scale):
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    every = every[every.isfinite()]
    assert torch.equal(cpu.forward(every, 9, Settings(1 - scale, 2.0)), reference.forward(every, 9, Settings(1 - scale, 2.0)))


def test_the_words_of_an_index_beyond_2_to_the_34():
    x, y = torch.ones(2, 100), torch.empty(2, 100)
    layout = (ctypes.c_int64 * 11)(
        2, 2, 100, 0, 0, 100, 1, 100, 1, 5 * 2**34, 1
    )  # dimensions, sizes, strides, steps of the index
    prepared = cpu._prepared(torch.float32, 0.5, 2.0, "detached", cpu.used)
    library.LIBRARY.sparseout_run(prepared, None, x.data_ptr(), y.data_ptr(), 200, layout, 3, 1.0, 1e-6, 1)
    words = reference.philox([torch.arange(32), torch.tensor([[0], [5]]), 0, 0], [3, 0])
    words = torch.stack([torch.broadcast_to(word, (2, 32)).reshape(2, 4, 8) for word in words], dim=2).reshape(2, 128)
    assert torch.equal(y != 0, words[:, :100] >= 2**31)


def test_the_public_op_uses_the_kernel_where_it_can():
    x = torch.ones(10, 10)
    assert backends.choose(x) == "cpu"
    negated = torch.complex(x, x).conj().imag
    assert negated.is_neg()
    for input in (x.to("meta"), negated):
        assert backends.choose(input) == "reference"
        with pytest.raises(ValueError, match="backend is 'cpu', which cannot be used here"):
            backends.choose(input, "cpu")
    assert not torch.func.vmap(lambda row: torch.tensor(backends.choose(row) == "cpu"))(x).any()
    with forward_ad.dual_level():
        assert backends.choose(x) == "reference"


@pytest.mark.parametrize("gradient", ["detached", "exact"])
def test_a_strided_gradient_and_batched_gradients(gradient):
    x = values((6, 4), torch.float64).requires_grad_()
    results = []
    for backend in ("cpu", "reference"):
        generator = torch.Generator().manual_seed(2)
        y = sparseout.sparseout(x, 0.5, 1.5, gradient=gradient, backend=backend, generator=generator)
        (strided,) = torch.autograd.grad(y, x, torch.ones(4, 6, dtype=torch.float64).t(), retain_graph=True)
        basis = torch.eye(24, dtype=torch.float64).reshape(24, 6, 4)
        (batched,) = torch.autograd.grad(y, x, basis, is_grads_batched=True)
        results.append((y, strided, batched))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-13)


@pytest.mark.filterwarnings("default")
def test_a_compiled_model_gives_the_same_mask():
    model = torch.nn.Sequential(torch.nn.Identity(), sparseout.Sparseout(0.5, 1.5))
    x = torch.full((100,), 4.0)
    torch.manual_seed(0)
    eager = model(x)
    torch.manual_seed(0)
    assert torch.equal(torch.compile(model, fullgraph=True, backend="eager")(x), eager)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_does_not_wait_for_its_parents_threads():
    x = torch.ones(2**18)
    own, childs = in_both(lambda: int((cpu.forward(x, 0, Settings(0.5, 1.5)) != 0).sum()))
    assert childs == own
