"""Finite input never becomes NaN, however extreme `p`, `q`, `eps` and the scale are."""

import itertools

import pytest
import torch

import sparseout
from sparseout.op import reference
from sparseout.op.autograd import FusedSparseout
from sparseout.op.settings import Settings

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
EXTREMES = list(
    itertools.product(
        (1e-30, 0.5),
        (0.0, 1e-46, 1.7, 3.0, 7e38, 1e300),
        (5e-324, 1e-40, 1e-6),
        (1.0, 1e-30, 1e30),
    )
)


def edge_values(dtype):
    """Return zeros, subnormal numbers, ones and the largest numbers of `dtype`, four of each sign."""
    limits = torch.finfo(dtype)
    sizes = [0.0, limits.smallest_normal / 8, limits.tiny, 1e-7, 0.5, 1.0, 2.0, 100.0, limits.max]
    return torch.tensor([sign * size for size in sizes for sign in (1, -1)] * 4, dtype=dtype)


def call(backend, x, p, q, scale, gradient, eps):
    if backend != "fused":
        return sparseout.sparseout(x, p, q, scale=scale, gradient=gradient, eps=eps, backend=backend)
    numbers = (torch.tensor(number, dtype=torch.float64) for number in (p, q, scale))
    return FusedSparseout.apply(x, torch.tensor([7]), *numbers, gradient, eps, ())


@pytest.mark.parametrize("gradient", ["detached", "exact"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", ["cpu", "reference", "fused"])
def test_no_setting_makes_nan_of_finite_input(backend, dtype, gradient):
    for p, q, eps, scale in EXTREMES:
        x = edge_values(dtype).requires_grad_()
        y = call(backend, x, p, q, scale, gradient, eps)
        assert not y.isnan().any(), (p, q, eps, scale)
        for size in (0.0, 1.0):
            (grad,) = torch.autograd.grad(y, x, torch.full_like(y, size), retain_graph=True)
            assert not grad.isnan().any(), (p, q, eps, scale, size)


@pytest.mark.parametrize("gradient", ["detached", "exact"])
def test_the_factor_of_the_reference_stays_finite_where_it_overflows(gradient):
    x, zero = torch.tensor([0.0, 1e-38, -1e-38]), torch.zeros(3)
    grad = reference.backward(zero, x, 0, Settings(0.999999, 1e-3, gradient=gradient, eps=1e-45))
    assert torch.equal(grad, zero)
    grad = reference.backward(torch.full((3,), 1e-38), x, 0, Settings(0.999999, 1e-3, gradient="detached", eps=1e-45))
    assert grad.isfinite().all()
    assert grad.abs().max() > 1


@pytest.mark.parametrize("backend", ["cpu", "reference", "fused"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_exact_gradient_at_q_0_is_that_of_no_noise(backend, dtype):
    """The factor of the noise is `q / 2 = 0`, even if the power that it multiplies overflows."""
    x = torch.tensor([0.0, 1e-40, -0.5, 2.0], dtype=dtype).requires_grad_()
    y = call(backend, x, 0.5, 0.0, 1.0, "exact", 1e-44)
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(grad, torch.ones_like(x))
