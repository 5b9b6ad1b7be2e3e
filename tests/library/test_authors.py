"""The authors' published expression: `eps=1e-12` gives its gradients; the default `eps` differs near 0."""

import pytest
import torch

from sparseout import sparseout


def both(x, q, eps):
    """Return the gradients of the sum for one mask: ours, and `1 + (|x| + 1e-12)^((q-2)/2) n` in float64."""
    x = x.clone().requires_grad_()
    sparseout(x, 0.5, q, eps=eps, generator=torch.Generator().manual_seed(3)).sum().backward()
    n = sparseout(torch.ones_like(x), 0.5, 2.0, generator=torch.Generator().manual_seed(3)).double() - 1
    return x.grad.double(), 1 + (x.detach().double().abs() + 1e-12) ** ((q - 2) / 2) * n


def largest_difference(x, q, eps):
    ours, theirs = both(x, q, eps)
    return ((ours - theirs).abs() / (theirs - 1).abs().clamp(min=1)).max().item()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("q", [0.5, 1.0, 1.5, 2.0, 3.0])
def test_with_eps_1e_12_the_gradient_is_the_authors(q, dtype):
    x = torch.logspace(-6, 1, 4096, dtype=dtype) * torch.tensor([1.0, -1.0], dtype=dtype).repeat(2048)
    assert largest_difference(x, q, 1e-12) < 4 * torch.finfo(dtype).eps
    assert both(torch.zeros(8), 1.0, 1e-12)[0].abs().max() == pytest.approx(1e6, rel=1e-5)


@pytest.mark.parametrize(("size", "difference"), [(0.1, 5e-6), (1e-4, 0.005), (1e-6, 0.293)])
def test_the_default_eps_differs_by_what_the_page_says(size, difference):
    x = torch.full((64,), size, dtype=torch.float64)
    assert largest_difference(x, 1.0, None) == pytest.approx(difference, rel=0.02)
    assert both(torch.zeros(8), 1.0, None)[0].abs().max() == pytest.approx(1001, rel=1e-5)
