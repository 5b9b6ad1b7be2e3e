"""The op: its value, its two gradients, its draws and its memory."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from small import seeded
from tolerances import DTYPES, RTOL

import sparseout
from sparseout.op import reference

QS = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
SHAPES = ((), (0,), (1,), (1023,), (3, 0, 2), (3, 7, 256))
PS = st.floats(0, 1)
GRADIENTS = ("detached", "exact")


def signed(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


def drawn_mask(shape, p, shared_dims=(), seed=0):
    """Return the mask of the first call with `generator=seeded(seed)`."""
    drawn = torch.randint(2**63 - 1, (1,), generator=seeded(seed))
    return reference.keep_mask(shape, p, int(drawn), shared_dims)


def noise(shape, p, shared_dims=()):
    kept = drawn_mask(shape, p, shared_dims)
    return kept.double() * (p / (1 - p)) - (~kept).double()


def bits(tensor):
    return tensor.detach().numpy().tobytes()


# The value


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(p=PS, seed=st.integers(0, 2**32))
def test_q_2_is_dropout_bit_for_bit(dtype, p, seed):
    x = signed(37, 11, dtype=dtype, seed=seed).requires_grad_()
    weight = signed(37, 11, dtype=dtype, seed=seed + 1)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        dropped = F.dropout(x, p)
        torch.manual_seed(seed)
        mask = F.dropout(torch.ones_like(x), p) != 0
    (expected,) = torch.autograd.grad(dropped, x, weight)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "keep_mask", lambda *_: mask)
        ours = sparseout.sparseout(x, p, 2.0, backend="reference")
        (grad,) = torch.autograd.grad(ours, x, weight)
    assert bits(ours) == bits(dropped)
    assert bits(grad) == bits(expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@given(p=st.floats(0, 0.99))
def test_q_2_is_dropout_within_one_ulp_in_half_precision(dtype, p):
    x = signed(500, dtype=dtype)
    kept = drawn_mask(x.shape, p)
    ours = sparseout.sparseout(x, p, 2.0, generator=seeded())
    theirs = x * torch.ones_like(x).div(1 - p)
    apart = ours.view(torch.int16).int() - theirs.view(torch.int16).int()
    assert apart[kept].abs().max() <= 1 if kept.any() else True
    assert (ours[~kept] == 0).all()


@pytest.mark.parametrize("q", QS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_p_0_and_evaluation_are_the_identity(dtype, q):
    x = signed(3, 7, dtype=dtype).requires_grad_()
    y = sparseout.sparseout(x, 0.0, q)
    assert bits(y.float()) == bits(x.float())
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], torch.ones_like(x))
    assert sparseout.sparseout(x, 0.5, q, training=False) is x


@pytest.mark.parametrize("q", [0.0, *QS])
@pytest.mark.parametrize("dtype", DTYPES)
def test_p_1_gives_zeros_and_zero_gradients(dtype, q):
    x = signed(3, 7, dtype=dtype).requires_grad_()
    y = sparseout.sparseout(x, 1.0, q)
    assert torch.equal(y, torch.zeros_like(x))
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], torch.zeros_like(x))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
@given(p=st.floats(0, 0.99), q=st.floats(0, 4))
def test_the_value_is_the_equation(dtype, shape, p, q):
    x = signed(*shape, dtype=dtype)
    y = sparseout.sparseout(x, p, q, generator=seeded())
    exact = x.double()
    power = exact.sign() * exact.abs() ** (q / 2) * noise(shape, p)
    assert y.shape == x.shape
    assert y.dtype == dtype
    largest_term = torch.maximum(exact.abs(), power.abs())
    assert ((y.double() - (exact + power)).abs() <= RTOL[dtype] * largest_term).all()


@pytest.mark.parametrize("q", QS)
@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_mean_and_variance(p, q):
    count = 2**17
    x = torch.tensor([-3.0, -1.0, -0.04, 0.3, 1.0, 2.5], dtype=torch.float64)
    y = sparseout.sparseout(x.expand(count, 6), p, q, generator=seeded())
    sigma = (x.abs() ** q * p / (1 - p)).sqrt()
    assert ((y.mean(0) - x).abs() < 5 * sigma / math.sqrt(count)).all()
    # y has two values, a distance |x|^(q/2) / (1 - p) apart, so its variance errs as k (1 - k) does for a binomial fraction k.
    fraction_error = 5 * math.sqrt(p * (1 - p) / count)
    relative_error = (abs(1 - 2 * p) * fraction_error + fraction_error**2) / (p * (1 - p))
    assert ((y.var(0, correction=0) / sigma**2 - 1).abs() < relative_error + 1e-9).all()


@pytest.mark.parametrize("q", [0.0, *QS])
def test_zero_stays_zero(q):
    assert torch.equal(sparseout.sparseout(torch.zeros(64), 0.5, q), torch.zeros(64))


@pytest.mark.parametrize("q", QS)
def test_the_function_is_odd(q):
    x = signed(99)
    plus, minus = (sparseout.sparseout(sign * x, 0.3, q, generator=seeded()) for sign in (1, -1))
    assert torch.equal(plus, -minus)


# The gradients


@pytest.mark.parametrize("q", [0.0, *QS, 4.0])
@pytest.mark.parametrize("gradient", GRADIENTS)
@pytest.mark.parametrize("eps", [None, 1e-3])
def test_the_gradients_equal_their_formulas(gradient, q, eps):
    x = signed(40, 5).requires_grad_()
    weight = signed(40, 5, seed=1)
    y = sparseout.sparseout(x, 0.4, q, gradient=gradient, eps=eps, generator=seeded())
    (grad,) = torch.autograd.grad(y, x, weight)
    coefficient = 1 if gradient == "detached" else q / 2
    factor = 1 + coefficient * (x.detach().abs() + (eps or 1e-6)) ** ((q - 2) / 2) * noise(x.shape, 0.4)
    torch.testing.assert_close(grad, weight * factor, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("q", [0.0, *QS])
def test_exact_passes_gradcheck_to_second_order_and_forward_mode(q, inplace):
    away_from_zero = signed(4, 3)
    x = (away_from_zero + away_from_zero.sign()).requires_grad_()

    def op(x):
        x = x.clone() if inplace else x
        return sparseout.sparseout(x, 0.4, q, True, inplace, gradient="exact", eps=1e-15, generator=seeded())

    assert torch.autograd.gradcheck(op, x, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(op, x)


@pytest.mark.parametrize("q", QS)
def test_detached_treats_the_factor_as_a_constant_in_forward_mode_and_second_order(q):
    x, tangent = signed(30), signed(30, seed=1)
    factor = 1 + (x.abs() + 1e-6) ** ((q - 2) / 2) * noise(x.shape, 0.4)

    def op(x):
        return sparseout.sparseout(x, 0.4, q, generator=seeded())

    _, product = torch.func.jvp(op, (x,), (tangent,))
    torch.testing.assert_close(product, tangent * factor, rtol=1e-13, atol=1e-13)
    x.requires_grad_()
    (grad,) = torch.autograd.grad(op(x).square().sum() / 2, x, create_graph=True)
    (second,) = torch.autograd.grad(grad.sum(), x)
    torch.testing.assert_close(second, factor**2, rtol=1e-12, atol=1e-12)


def test_gradients_differ_unless_q_is_2():
    x = signed(50).requires_grad_()
    for q in QS:
        grads = [
            torch.autograd.grad(sparseout.sparseout(x, 0.5, q, gradient=g, generator=seeded()).sum(), x)[0] for g in GRADIENTS
        ]
        assert torch.equal(*grads) == (q == 2)


def finite(dtype):
    largest = torch.finfo(dtype).max
    return st.lists(st.floats(-largest, largest) | st.sampled_from([0.0, -0.0, largest]), min_size=1, max_size=8)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gradient", GRADIENTS)
@given(data=st.data(), p=PS, q=st.floats(0, 50))
def test_finite_input_never_gives_nan(dtype, gradient, data, p, q):
    x = torch.tensor(data.draw(finite(dtype)), dtype=torch.float64).to(dtype).nan_to_num().requires_grad_()
    y = sparseout.sparseout(x, p, q, gradient=gradient, generator=seeded())
    assert not y.isnan().any()
    for weight in (torch.zeros_like(x), torch.ones_like(x)):
        (grad,) = torch.autograd.grad(y, x, weight, retain_graph=True)
        assert not grad.isnan().any()


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data(), q=st.floats(0, 50))
def test_p_0_is_the_identity_for_every_finite_value(dtype, data, q):
    x = torch.tensor(data.draw(finite(dtype)), dtype=torch.float64).to(dtype)
    assert bits(sparseout.sparseout(x, 0.0, q).double()) == bits(x.double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gradient", GRADIENTS)
@given(x=st.lists(st.floats(-50, 50), min_size=1, max_size=8), p=st.floats(0, 0.999), q=st.floats(0, 10))
def test_moderate_input_never_gives_inf(dtype, gradient, x, p, q):
    x = torch.tensor(x, dtype=dtype, requires_grad=True)
    y = sparseout.sparseout(x, p, q, gradient=gradient, generator=seeded())
    y.sum().backward()
    assert y.isfinite().all()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("q", QS)
def test_nan_and_inf_pass_through_as_in_dropout(q):
    x = torch.tensor([torch.nan, torch.inf, -torch.inf]).repeat(50)
    kept = drawn_mask(x.shape, 0.5)
    y = sparseout.sparseout(x, 0.5, q, generator=seeded())
    assert y[x.isnan()].isnan().all()
    assert torch.equal(y[kept & x.isinf()], x[kept & x.isinf()])
    dropped_inf = ~kept & x.isinf()
    if q == 2:
        assert y[dropped_inf].isnan().all()
    assert not y[dropped_inf].isfinite().any()


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_float16_bounds_the_factor_more_tightly(gradient):
    x = torch.zeros(64, dtype=torch.float16, requires_grad=True)
    y = sparseout.sparseout(x, 0.5, 1.0, gradient=gradient, eps=1e-12, generator=seeded())
    y.sum().backward()
    coefficient = 1 if gradient == "detached" else 0.5
    torch.testing.assert_close(x.grad[drawn_mask(x.shape, 0.5)].unique().item(), 1 + coefficient * 100.0, rtol=1e-3, atol=0)
