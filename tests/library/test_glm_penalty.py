"""The expected loss under the noise, exact and to second order, in every family."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseout import sparseout
from sparseout.glm import expected_loss, penalty
from sparseout.glm.families import FAMILIES, predictor

SCALAR = ("gaussian", "bernoulli", "poisson", "gamma")
EXPONENTIAL = ("poisson", "gamma")


def problem(family, samples=7, features=5, scale=0.4, seed=0):
    """Return features with zeros and both signs, targets of the family, coefficients and intercepts, all in float64."""
    random = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=random, dtype=torch.float64)

    X = normal(samples, features)
    X[0, 0] = X[-1, -1] = 0
    y = {
        "gaussian": normal(samples),
        "bernoulli": (normal(samples) > 0).double(),
        "multinomial": torch.arange(samples).double() % 3,
        "poisson": normal(samples).abs().round(),
        "gamma": normal(samples).abs() + 0.1,
    }[family]
    classes = (3,) if family == "multinomial" else ()
    return X, y, scale * normal(*classes, features), 0.3 * normal(*classes)


def clean_loss(X, y, coef, intercept, family):
    return FAMILIES[family].loss(predictor(X, coef, intercept), y).mean()


def slope(x, y):
    """Return the slope of the regression line through points on log-log axes."""
    x, y = torch.tensor(x, dtype=torch.float64).log(), torch.stack(y).log()
    x, y = x - x.mean(), y - y.mean()
    return (x @ y / x.square().sum()).item()


@given(p=st.floats(0, 0.9), q=st.floats(0, 4), seed=st.integers(0, 20))
def test_the_gaussian_penalty_is_the_expectation(p, q, seed):
    X, y, coef, b = problem("gaussian", seed=seed)
    exact = expected_loss(X, y, coef, p, q, "gaussian", b, method="enumeration").value
    torch.testing.assert_close(clean_loss(X, y, coef, b, "gaussian") + penalty(X, coef, p, q, "gaussian", b), exact)
    torch.testing.assert_close(expected_loss(X, y, coef, p, q, "gaussian", b).value, exact)


def test_at_q_2_the_gaussian_penalty_is_ridge_with_the_dropout_weights():
    X, _, coef, _ = problem("gaussian")
    weights = 0.3 / 0.7 * X.square().sum(0)
    torch.testing.assert_close(penalty(X, coef, 0.3, 2.0, "gaussian"), (weights * coef.square()).sum() / 2 / len(X))


def test_the_gaussian_objective_is_the_mean_over_a_million_draws():
    X, y, coef, b = problem("gaussian", samples=3, features=4)
    objective = clean_loss(X, y, coef, b, "gaussian") + penalty(X, coef, 0.5, 1.3, "gaussian", b)
    torch.manual_seed(0)
    noisy = sparseout(X.expand(10**6, 3, 4), 0.5, 1.3)
    losses = FAMILIES["gaussian"].loss(predictor(noisy, coef, b), y).mean(-1)
    assert abs(losses.mean() - objective) < 4 * losses.std() / 1000


@pytest.mark.parametrize("family", EXPONENTIAL)
@given(p=st.floats(0, 0.9), q=st.floats(0, 3), seed=st.integers(0, 20))
def test_the_product_over_features_equals_enumeration(family, p, q, seed):
    X, y, coef, b = problem(family, seed=seed)
    product = expected_loss(X, y, coef, p, q, family, b).value
    torch.testing.assert_close(
        product, expected_loss(X, y, coef, p, q, family, b, method="enumeration").value, rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_draws_agree_with_the_exact_expectation(family):
    X, y, coef, b = problem(family)
    exact = expected_loss(X, y, coef, 0.4, 1.5, family, b)
    random = torch.Generator().manual_seed(0)
    sampled = expected_loss(X, y, coef, 0.4, 1.5, family, b, method="monte_carlo", draws=200_000, generator=random)
    assert exact.standard_error == 0
    assert abs(sampled.value - exact.value) < 4 * sampled.standard_error
    assert sampled.standard_error == pytest.approx(math.sqrt(200) * _spread(X, y, coef, b, family) / math.sqrt(200_000), rel=0.3)


def _spread(X, y, coef, b, family):
    """Return the standard deviation of a mean over 200 draws, estimated from 100 such means."""
    means = [expected_loss(X, y, coef, 0.4, 1.5, family, b, method="monte_carlo", draws=200).value for _ in range(100)]
    return torch.stack(means).std().item()


def _error(family, p, t, intercept):
    """Return the error of the second-order approximation, for coefficients multiplied by `t`."""
    X, y, coef, _ = problem(family, seed=3)
    coef = t * coef.abs() * torch.where(X.mean(0) > 0, 1, -1)
    exact = expected_loss(X, y, coef, p, 1.5, family, intercept, method="enumeration").value
    return (clean_loss(X, y, coef, intercept, family) + penalty(X, coef, p, 1.5, family, intercept) - exact).abs()


def test_the_bernoulli_error_is_linear_in_p():
    ps = [0.001 * 2**k for k in range(6)]
    assert slope(ps, [_error("bernoulli", p, 1.0, 0.5) for p in ps]) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(("intercept", "order"), [(0.7, 3), (0.0, 4)])
def test_the_bernoulli_error_shrinks_with_the_coefficients(intercept, order):
    ts = [0.2 * 2**-k for k in range(5)]
    assert slope(ts, [_error("bernoulli", 0.3, t, intercept) for t in ts]) == pytest.approx(order, abs=0.1)


@settings(max_examples=20)
@given(beta=st.floats(-9, 9))
def test_the_expectation_is_convex_and_the_quadratic_form_is_not(beta):
    x, y, b = torch.ones(1, 1, dtype=torch.float64), torch.ones(1, dtype=torch.float64), 0.5

    def curvature(beta, noise):
        at = torch.tensor(beta, dtype=torch.float64)
        return torch.func.hessian(lambda beta: clean_loss(x, y, beta[None], b, "bernoulli") + noise(beta[None]))(at)

    def exact(beta):
        return expected_loss(x, y, beta, 0.5, 1.0, "bernoulli", b).value - clean_loss(x, y, beta, b, "bernoulli")

    assert curvature(beta, exact) > 0
    assert curvature(2.0, lambda beta: penalty(x, beta, 0.5, 1.0, "bernoulli", b)) < 0


@given(q=st.floats(0, 4), seed=st.integers(0, 20))
def test_with_fixed_features_both_gradients_agree(q, seed):
    X, y, coef, b = problem("bernoulli", seed=seed)
    coef.requires_grad_()
    slopes = []
    for gradient in ("detached", "exact"):
        noisy = sparseout(X, 0.5, q, gradient=gradient, generator=torch.Generator().manual_seed(seed))
        slopes += torch.autograd.grad(clean_loss(noisy, y, coef, b, "bernoulli"), coef)
    assert torch.equal(*slopes)


@pytest.mark.parametrize("q", [1.0, 1.5, 2.0, 3.0])
def test_the_pull_of_a_rescaling(q):
    x, _, w, _ = problem("gaussian", samples=1)
    x, w = x + x.sign() + (x == 0), w.requires_grad_()
    many = x.expand(200_000, -1).clone().requires_grad_()

    def pulls(gradient):
        noisy = sparseout(many, 0.3, q, gradient=gradient, eps=1e-12, generator=torch.Generator().manual_seed(0))
        (slope,) = torch.autograd.grad(((noisy @ w).square() / 2).sum(), many)
        return (many * slope).sum(-1) - (noisy @ w).square()  # w.dL/dw of a loss of w.y is y.dL/dy

    pull = pulls("exact").detach()
    expected = (q - 2) * penalty(x, w, 0.3, q, "gaussian")
    assert abs(pull.mean() - expected) <= 4 * pull.std() / len(pull) ** 0.5 + 1e-9
    assert pulls("detached").abs().max() < 1e-9


@pytest.mark.parametrize("family", FAMILIES)
def test_derivatives(family):
    X, y, coef, b = problem(family, samples=3)
    coef, b = coef.requires_grad_(), b.requires_grad_()
    assert torch.autograd.gradcheck(lambda c, b: penalty(X, c, 0.3, 1.5, family, b, y=y), (coef, b))
    assert torch.autograd.gradcheck(lambda c, b: expected_loss(X, y, c, 0.3, 1.5, family, b).value, (coef, b))
    inside = X.clamp(min=0.1).requires_grad_()
    assert torch.autograd.gradcheck(lambda X: penalty(X, coef, 0.3, 1.5, family, b, y=y), (inside,))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_curvature_is_the_second_derivative_of_the_loss(family):
    X, y, coef, b = problem(family, samples=1, features=1)
    one = torch.ones(1, 1, dtype=torch.float64)
    hessian = torch.func.hessian(lambda eta: FAMILIES[family].loss(eta[None], y).sum())(predictor(X, coef, b)[0])
    step = coef.flatten()
    expected = step @ hessian @ step if family == "multinomial" else step.square().sum() * hessian
    torch.testing.assert_close(
        penalty(one, coef, 0.5, 1.0, family, predictor(X, coef, b)[0] - step.view(b.shape), y=y), expected / 2
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_sparse_features(family):
    X, y, coef, b = problem(family)
    coef.requires_grad_()
    dense = penalty(X, coef, 0.3, 1.5, family, b, y=y, reduction="none")
    sparse = penalty(X.to_sparse(), coef, 0.3, 1.5, family, b, y=y, reduction="none")
    torch.testing.assert_close(sparse, dense)
    torch.testing.assert_close(*(torch.autograd.grad(value.square().sum(), coef) for value in (sparse, dense)))


@pytest.mark.parametrize("family", FAMILIES)
def test_samples_are_averaged_and_float32_stays(family):
    X, y, coef, b = (value.float() for value in problem(family))
    each = penalty(X, coef, 0.3, 1.5, family, b, y=y, reduction="none")
    assert each.shape == (7,)
    assert each.dtype == torch.float32
    torch.testing.assert_close(penalty(X, coef, 0.3, 1.5, family, b, y=y), each.mean())


def test_two_classes_are_the_bernoulli_family():
    X, y, coef, b = problem("bernoulli")
    two = torch.stack([torch.zeros_like(coef), coef]), torch.stack([torch.zeros_like(b), b])
    torch.testing.assert_close(penalty(X, two[0], 0.3, 1.5, "multinomial", two[1]), penalty(X, coef, 0.3, 1.5, "bernoulli", b))
    torch.testing.assert_close(
        expected_loss(X, y, two[0], 0.3, 1.5, "multinomial", two[1]).value,
        expected_loss(X, y, coef, 0.3, 1.5, "bernoulli", b).value,
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_without_noise_there_is_no_penalty(family):
    X, y, coef, b = problem(family)
    assert penalty(X, coef, 0.0, 1.5, family, b, y=y) == 0
    torch.testing.assert_close(expected_loss(X, y, coef, 0.0, 1.5, family, b).value, clean_loss(X, y, coef, b, family))


def test_a_zero_gets_no_noise_even_at_q_0():
    X = torch.tensor([[0.0, 2.0]], requires_grad=True)
    value = penalty(X, torch.ones(2), 0.5, 0.0, "gaussian")
    assert value == 0.5
    for q in (0.0, 0.5, 1.0):
        assert torch.autograd.grad(penalty(X, torch.ones(2), 0.5, q, "gaussian"), X)[0].isfinite().all()


X, COEF, Y = torch.ones(4, 3), torch.ones(3), torch.zeros(4)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"X": [[1.0]]}, TypeError, "X must be a floating-point torch.Tensor, got list"),
        ({"X": X[0]}, ValueError, r"X must be \(samples, features\) .* got \(3,\)"),
        ({"X": X[:0]}, ValueError, r"X must be \(samples, features\) with at least one sample, .* got \(0, 3\)"),
        ({"coef": COEF[:2]}, ValueError, r"coef must be \(3,\) for the family 'gaussian', got \(2,\)"),
        ({"family": "multinomial"}, ValueError, r"coef must be \(classes, 3\) for the family 'multinomial', got \(3,\)"),
        ({"coef": COEF.double()}, TypeError, "coef must have the dtype of X, torch.float32, got torch.float64"),
        ({"p": 1.0}, ValueError, r"p must be a drop probability in \[0, 1\), got 1.0"),
        ({"p": math.nan}, ValueError, r"p must be a drop probability in \[0, 1\), got nan"),
        ({"q": -1.0}, ValueError, "q must be a finite norm of at least 0, got -1.0"),
        ({"family": "cauchy"}, ValueError, "family must be one of 'gaussian', .*, got 'cauchy'"),
        ({"intercept": torch.ones(2)}, ValueError, r"intercept must be a number, got \(2,\)"),
        ({"y": Y[:2]}, ValueError, r"y must be a torch.Tensor of shape \(4,\), got torch.float32 of shape \(2,\)"),
    ],
)
@pytest.mark.parametrize("function", [penalty, expected_loss])
def test_arguments_out_of_range(function, arguments, error, message):
    with pytest.raises(error, match=message):
        function(**{"X": X, "coef": COEF, "p": 0.5, "q": 1.0, "family": "gaussian", "y": Y, **arguments})


def test_arguments_that_only_one_function_refuses():
    with pytest.raises(ValueError, match="y must be a torch.Tensor for the family 'gamma'.* got None"):
        penalty(X, COEF, 0.5, 1.0, "gamma")
    with pytest.raises(ValueError, match="reduction must be one of 'mean', 'none', got 'sum'"):
        penalty(X, COEF, 0.5, 1.0, "gaussian", reduction="sum")
    with pytest.raises(ValueError, match="method must be 'enumeration' or 'monte_carlo' for the family 'bernoulli'"):
        expected_loss(X, Y, COEF, 0.5, 1.0, "bernoulli", method="closed_form")
    with pytest.raises(ValueError, match="method must be 'monte_carlo' for more than 20 features, got 21"):
        expected_loss(torch.ones(4, 21), Y, torch.ones(21), 0.5, 1.0, "bernoulli", method="enumeration")
    with pytest.raises(ValueError, match="draws must be an integer of at least 2, got 1"):
        expected_loss(X, Y, COEF, 0.5, 1.0, "bernoulli", method="monte_carlo", draws=1)
    with pytest.raises(ValueError, match="X must be dense, got torch.sparse_coo"):
        expected_loss(X.to_sparse(), Y, COEF, 0.5, 1.0, "bernoulli")
    with pytest.raises(ValueError, match="y must hold class indices from 0 to 1, got values from 2 to 2"):
        expected_loss(X, Y + 2, torch.ones(2, 3), 0.5, 1.0, "multinomial")
