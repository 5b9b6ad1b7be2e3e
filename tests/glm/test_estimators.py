"""The estimators: the checks of scikit-learn, the closed form, and errors."""

import subprocess
import sys

import numpy
import pandas
import pytest
import scipy.sparse
import torch
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from sparseout.glm import SparseoutClassifier, SparseoutRegressor, expected_loss, penalty

REGRESSORS = [SparseoutRegressor(family=family, q=1.5) for family in ("gaussian", "poisson", "gamma")]
STOCHASTIC = [SparseoutRegressor(method="stochastic", max_iter=20), SparseoutClassifier(method="stochastic", max_iter=20)]


def order_matters(estimator):
    """Minibatches differ between repeated and weighted samples."""
    checks = ("check_sample_weight_equivalence_on_dense_data", "check_sample_weight_equivalence_on_sparse_data")
    return dict.fromkeys(checks, "stochastic") if estimator.method == "stochastic" else {}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks([*REGRESSORS, SparseoutClassifier(), *STOCHASTIC], expected_failed_checks=order_matters)
def test_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


def data(family, samples=200, features=4):
    random = numpy.random.default_rng(0)
    X = random.normal(size=(samples, features))
    eta = X @ [0.5, -0.3, 0.0, 0.2] + 0.3
    y = {
        "gaussian": lambda: eta + random.normal(size=samples),
        "poisson": lambda: random.poisson(numpy.exp(eta)).astype(float),
        "gamma": lambda: random.gamma(2.0, numpy.exp(eta) / 2),
    }[family]()
    return X, y


def closed_form(X, y, p, q):
    return numpy.linalg.solve(X.T @ X + p / (1 - p) * numpy.diag((abs(X) ** q).sum(0)), X.T @ y)


@pytest.mark.parametrize("q", [1, 2, 3])
@pytest.mark.parametrize("load", [lambda: load_diabetes(return_X_y=True), lambda: data("gaussian")])
def test_the_gaussian_fit_is_the_closed_form(load, q):
    X, y = load()
    expected = closed_form(X, y, 0.3, q)
    model = SparseoutRegressor(p=0.3, q=q, fit_intercept=False, tol=1e-8).fit(X, y)
    assert numpy.linalg.norm(model.coef_ - expected) < 1e-8 * numpy.linalg.norm(expected)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("q", [1, 2, 3])
def test_the_stochastic_fit_approaches_it(q):
    X, y = data("gaussian")
    expected = closed_form(X, y, 0.3, q)

    def distance(passes):
        model = SparseoutRegressor(p=0.3, q=q, fit_intercept=False, method="stochastic", tol=0, max_iter=passes, random_state=0)
        return numpy.linalg.norm(model.fit(X, y).coef_ - expected) / numpy.linalg.norm(expected)

    assert distance(400) < 0.02 < distance(1)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_stochastic_fit_weighs_loss_and_ridge_as_the_marginal_does():
    X, y = data("gaussian")
    options = {"p": 0.2, "q": 1.5, "alpha": 0.5, "fit_intercept": False, "random_state": 0}
    expected = SparseoutRegressor(**options).fit(X, y).coef_
    found = SparseoutRegressor(**options, method="stochastic", tol=0, max_iter=200).fit(X, y).coef_
    assert numpy.linalg.norm(found - expected) < 0.03 * numpy.linalg.norm(expected)
    assert numpy.linalg.norm(SparseoutRegressor(**options | {"alpha": 0}).fit(X, y).coef_) > 1.2 * numpy.linalg.norm(expected)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("family", ["poisson", "gamma"])
def test_the_stochastic_fit_approaches_the_minimum_of_the_exact_expectation(family):
    X, y = data(family)

    def gradient(passes):
        options = {"family": family, "p": 0.4, "q": 1.0, "method": "stochastic", "tol": 0, "max_iter": passes, "random_state": 0}
        model = SparseoutRegressor(**options).fit(X, y)
        coef = torch.from_numpy(model.coef_).requires_grad_()
        loss = expected_loss(torch.from_numpy(X), torch.from_numpy(y), coef, 0.4, 1.0, family, model.intercept_)
        return torch.autograd.grad(loss.value, coef)[0].norm().item()

    assert gradient(400) < 0.02 < gradient(1)


@pytest.mark.parametrize("family", ["gaussian", "poisson", "gamma"])
def test_the_fit_is_where_the_objective_has_no_slope(family):
    X, y = (torch.from_numpy(value) for value in data(family))
    model = SparseoutRegressor(family=family, p=0.2, q=1.5, alpha=0.1, tol=1e-8).fit(X.numpy(), y.numpy())
    coef = torch.from_numpy(model.coef_).requires_grad_()
    b = torch.tensor(model.intercept_, dtype=torch.float64, requires_grad=True)
    loss = expected_loss(X, y, coef, 0.0, 1.5, family, b).value
    objective = loss + penalty(X, coef, 0.2, 1.5, family, b, y=y) + 0.05 * coef.square().sum()
    for slope in torch.autograd.grad(objective, (coef, b)):
        assert slope.abs().max() < 1e-6


def test_without_noise_the_estimators_agree_with_scikit_learn():
    X, y = data("gaussian")
    numpy.testing.assert_allclose(SparseoutRegressor(p=0, alpha=0.1, tol=1e-8).fit(X, y).coef_, Ridge(20.0).fit(X, y).coef_)
    X, y = data("poisson")
    ours = SparseoutRegressor(family="poisson", p=0, alpha=0.1, tol=1e-8).fit(X, y)
    numpy.testing.assert_allclose(ours.coef_, PoissonRegressor(alpha=0.1, tol=1e-9).fit(X, y).coef_, rtol=1e-5)
    X, y = load_iris(return_X_y=True)
    for samples in (150, 100):
        X, y = X[:samples], y[:samples]
        theirs = LogisticRegression(C=1 / len(y), tol=1e-9).fit(X, y)
        ours = SparseoutClassifier(p=0, alpha=1.0, tol=1e-8).fit(X, y)
        numpy.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-6)
        numpy.testing.assert_allclose(ours.decision_function(X), theirs.decision_function(X), atol=1e-5)


@pytest.mark.parametrize("classes", [2, 3])
def test_sparse_features(classes):
    X, y = load_iris(return_X_y=True)
    X = numpy.where(X < 1.5, 0, X)[y < classes]
    y = y[y < classes]
    dense = SparseoutClassifier(q=1.0, alpha=0.01, tol=1e-8).fit(X, y)
    sparse = clone(dense).fit(scipy.sparse.csr_array(X), y)
    numpy.testing.assert_allclose(sparse.coef_, dense.coef_, rtol=1e-4, atol=1e-6)
    numpy.testing.assert_allclose(sparse.predict_proba(scipy.sparse.csr_array(X)), dense.predict_proba(X), atol=1e-6)


def test_pipelines_and_grid_search():
    X, y = load_breast_cancer(return_X_y=True, as_frame=True)
    model = make_pipeline(StandardScaler().set_output(transform="pandas"), SparseoutClassifier(tol=1e-3))
    grid = {"sparseoutclassifier__p": [0.1, 0.3], "sparseoutclassifier__q": [1.0, 2.0]}
    search = GridSearchCV(model, grid, cv=3).fit(X, y)
    assert search.best_score_ > 0.96
    assert list(search.best_estimator_[-1].feature_names_in_) == list(X.columns)
    with pytest.raises(ValueError, match="feature names"):
        search.best_estimator_[-1].predict(pandas.DataFrame(X.to_numpy(), columns=X.columns[::-1]))


def test_warm_start():
    X, y = data("poisson")
    model = SparseoutRegressor(family="poisson", warm_start=True, tol=1e-6).fit(X, y)
    first = model.n_iter_
    assert first > 2
    assert model.fit(X, y).n_iter_ <= 1
    assert model.set_params(warm_start=False).fit(X, y).n_iter_ == first


def test_a_stochastic_fit_repeats():
    X, y = data("gaussian")
    model = SparseoutRegressor(method="stochastic", tol=1e-2, random_state=3)
    state = torch.get_rng_state()
    assert (clone(model).fit(X, y).coef_ == model.fit(X, y).coef_).all()
    assert (clone(model).set_params(random_state=4).fit(X, y).coef_ != model.coef_).any()
    assert torch.equal(torch.get_rng_state(), state)


def test_constant_features_and_separable_data():
    X = numpy.linspace(-1, 1, 40)[:, None] * [1.0, 0.0, 2.0] + [0.0, 3.0, 0.0]
    with pytest.warns(ConvergenceWarning, match="the features separate the samples"):
        model = SparseoutClassifier(p=0.2).fit(X, X[:, 0] > 0)
    assert numpy.isfinite(model.coef_).all()
    assert model.score(X, X[:, 0] > 0) == 1


@pytest.mark.parametrize("method", ["marginal", "stochastic"])
def test_too_few_iterations_warn(method):
    X, y = data("gaussian")
    with pytest.warns(ConvergenceWarning, match="SparseoutRegressor did not converge: .*max_iter"):
        model = SparseoutRegressor(method=method, max_iter=1, tol=1e-9).fit(X, y)
    assert model.n_iter_ == 1


def test_too_few_iterations_of_l_bfgs_warn():
    X, y = data("poisson")
    with pytest.warns(
        ConvergenceWarning, match="SparseoutRegressor did not converge: L-BFGS stopped after 1 iterations: .*max_iter"
    ):
        SparseoutRegressor(family="poisson", max_iter=1, tol=1e-9).fit(X, y)


ONES = numpy.ones(200)


@pytest.mark.parametrize(
    ("parameters", "changed", "message"),
    [
        ({"p": 1.0}, {}, r"p must be a drop probability in \[0, 1\), got 1.0"),
        ({"q": -1}, {}, "q must be a finite norm of at least 0, got -1"),
        ({"method": "guess"}, {}, "method must be one of 'marginal', 'stochastic', got 'guess'"),
        ({"family": "cauchy"}, {}, "family must be one of 'gaussian', 'poisson', 'gamma', got 'cauchy'"),
        ({"alpha": -1}, {}, "alpha must be a finite number of at least 0, got -1"),
        ({"max_iter": 0}, {}, "max_iter must be an integer of at least 1, got 0"),
        ({"family": "poisson"}, {"y": -ONES}, "y must be nonnegative and not all 0 for the family 'poisson'"),
        ({"family": "poisson"}, {"y": 0 * ONES}, "y must be nonnegative and not all 0 for the family 'poisson'"),
        ({"family": "gamma"}, {"y": 0 * ONES}, "y must be positive for the family 'gamma', got a minimum of 0"),
        ({}, {"y": numpy.nan * ONES}, "Input y contains NaN"),
        ({}, {"X": numpy.inf * ONES[:, None]}, "Input X contains infinity"),
        ({}, {"sample_weight": -ONES}, "sample_weight must be nonnegative and not all zero, got a minimum of -1"),
    ],
)
def test_bad_input(parameters, changed, message):
    X, y = data("gaussian")
    with pytest.raises(ValueError, match=message):
        SparseoutRegressor(**parameters).fit(**{"X": X, "y": y, **changed})


def test_a_single_class():
    with pytest.raises(ValueError, match="y must have at least two classes, got one class: 1.0"):
        SparseoutClassifier().fit(ONES[:, None], ONES)


def test_the_theorem_needs_no_scikit_learn_and_the_estimators_say_what_they_need():
    program = (
        "import sys; sys.modules['sklearn'] = None; import sparseout.glm as glm; glm.penalty\n"
        "try: glm.SparseoutRegressor\nexcept ModuleNotFoundError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("SparseoutRegressor needs sklearn")
    assert "pip install 'sparseout[glm]'" in done.stdout
