"""The deterministic solver: its sums and derivatives equal autograd's, and many samples are solved from a part of them."""

import warnings

import numpy
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning

from sparseout.glm import SparseoutClassifier, SparseoutRegressor, newton, solvers
from sparseout.glm.problem import Model, Problem

RANDOM = numpy.random.default_rng(0)
X = RANDOM.normal(size=(20_000, 5))
ETA = X @ [1.0, -0.5, 0.2, 0.0, 0.1] - 0.3
TARGETS = {
    "bernoulli": (RANDOM.uniform(size=len(X)) < 1 / (1 + numpy.exp(-ETA))).astype(float),
    "poisson": RANDOM.poisson(numpy.exp(ETA)).astype(float),
    "gamma": RANDOM.gamma(2.0, numpy.exp(ETA) / 2),
    "gaussian": ETA + RANDOM.normal(size=len(X)),
}


@pytest.fixture
def evaluations(monkeypatch):
    """Count the passes over all samples."""
    counts, sums = [], Problem.evaluate_coefficients

    def counted(self, *args):
        counts.append(len(self.y))
        return sums(self, *args)

    monkeypatch.setattr(Problem, "evaluate_coefficients", counted)
    return counts


def problem(family, q=1.3, rows=3000, alpha=0.1, intercept=True, order="C"):
    weight = RANDOM.uniform(size=rows)
    return Problem(
        Model(family, 0.4, q, alpha, intercept), numpy.asarray(X[:rows], order=order), TARGETS[family][:rows], weight, 1
    )


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("q", [0, 1, 1.3, 1.5, 2, 3])
@pytest.mark.parametrize("family", TARGETS)
def test_sums_and_derivatives_equal_those_of_autograd(family, q, intercept, order, monkeypatch):
    monkeypatch.setattr("sparseout.glm.blocks._ELEMENTS", 5 * 700)  # several blocks, the last one shorter
    found = problem(family, q, intercept=intercept, order=order)
    theta = torch.from_numpy(RANDOM.normal(scale=0.3, size=found.shape))
    expected, at = found._differentiate(theta, found.y), found.evaluate(theta.numpy().ravel())
    assert at.value == pytest.approx(expected.value, rel=1e-12)
    numpy.testing.assert_allclose(at.gradient, expected.gradient, rtol=1e-9, atol=1e-13)
    assert (at.smallest_loss, at.largest_loss) == pytest.approx((expected.smallest_loss, expected.largest_loss), rel=1e-12)
    hessian = torch.autograd.functional.hessian(found.marginal, theta).reshape(theta.numel(), -1)
    numpy.testing.assert_allclose(found.hessian(theta.numpy().ravel()), hessian, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("family", ["bernoulli", "poisson", "gamma"])
def test_many_samples_are_solved_from_a_part_of_them(family, evaluations):
    kind = {} if family == "bernoulli" else {"family": family}
    estimator = SparseoutRegressor if kind else SparseoutClassifier
    model = estimator(**kind, p=0.3, q=1.5, tol=1e-6).fit(X, TARGETS[family])
    assert newton.takes_part(problem(family, rows=len(X)))
    assert evaluations.count(len(X)) <= 6
    fresh = Problem(Model(family, 0.3, 1.5, 0.0, True), X, TARGETS[family], numpy.ones(len(X)), 1)
    found = solvers.marginal(fresh, fresh.start(), 1e-8, 100)  # a given start takes no part
    coef, _ = fresh.parameters(found.theta)
    numpy.testing.assert_allclose(numpy.ravel(model.coef_), coef[0], atol=2e-6)


def test_a_part_that_misleads_costs_iterations_and_changes_nothing():
    """Every eighth sample, the part, has other targets than the rest."""
    y = TARGETS["bernoulli"].copy()
    y[:: newton.STEP] = 1 - y[:: newton.STEP]
    ours = SparseoutClassifier(p=0.2, q=1.0, tol=1e-6).fit(X, y)
    shuffled = RANDOM.permutation(len(y))
    theirs = SparseoutClassifier(p=0.2, q=1.0, tol=1e-6).fit(X[shuffled], y[shuffled])
    numpy.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-5)


def test_a_part_with_one_class_is_not_solved():
    y = TARGETS["bernoulli"].copy()
    y[:: newton.STEP] = 1
    assert Problem(Model("bernoulli", 0.2, 1.0, 0.0, True), X, y, numpy.ones(len(y)), 1).sample(newton.STEP) is None
    assert SparseoutClassifier(p=0.2, q=1.0).fit(X, y).n_iter_ > 0


def test_many_separable_samples_warn():
    with pytest.warns(ConvergenceWarning, match="the features separate the samples"):
        SparseoutClassifier(p=0.2).fit(X, X[:, 0] > 0)


def test_many_samples_with_a_feature_that_is_rarely_set():
    rare = numpy.zeros(len(X))
    rare[[3, 5, 1001]] = 1.0  # none of them in the part
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = SparseoutClassifier(p=0.2, alpha=1e-3, tol=1e-7).fit(numpy.column_stack([X, rare]), TARGETS["bernoulli"])
    assert abs(model.coef_[0, -1]) > 0.01


def test_ill_conditioned_features_need_few_passes(evaluations):
    mixed = X @ numpy.array([[1, 1, 1, 1, 1], [0, 0.1, 0, 0, 0], [0, 0, 0.1, 0, 0], [0, 0, 0, 0.1, 0], [0, 0, 0, 0, 0.1]])
    SparseoutClassifier(p=0.01, tol=1e-5).fit(mixed, TARGETS["bernoulli"])
    assert evaluations.count(len(X)) <= 8
