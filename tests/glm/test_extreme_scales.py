"""Fits at the limits of float64, of separable samples, and under strong noise give right numbers or a helpful error."""

import itertools
import warnings

import numpy
import pytest
import scipy.sparse
import torch
from sklearn.exceptions import ConvergenceWarning
from test_estimators import closed_form, data

from sparseout.glm import SparseoutClassifier, SparseoutRegressor, expected_loss

TINY_AND_HUGE = [1e-310, 1e-200, 1e-100, 1e100, 1e200, 1e307]


@pytest.mark.parametrize("alpha", [0.0, 0.5])
@pytest.mark.parametrize("factor", TINY_AND_HUGE)
def test_gaussian_coefficients_are_proportional_to_the_targets(factor, alpha):
    X, y = data("gaussian")
    expected = SparseoutRegressor(p=0.3, q=1.5, alpha=alpha).fit(X, y)
    found = SparseoutRegressor(p=0.3, q=1.5, alpha=alpha).fit(X, y * factor)
    numpy.testing.assert_allclose(found.coef_ / factor, expected.coef_, rtol=1e-7)
    assert found.intercept_ / factor == pytest.approx(expected.intercept_, rel=1e-7)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("family", ["gaussian", "poisson", "gamma", "bernoulli"])
@pytest.mark.parametrize("factor", [1e-200, 1e-160, 1e160, 1e200])
def test_dropout_does_not_depend_on_the_unit_of_the_features(family, factor, sparse):
    X, y = data("gaussian" if family == "bernoulli" else family)
    kind = scipy.sparse.csr_array if sparse else numpy.asarray

    def fit(X):
        if family == "bernoulli":
            return SparseoutClassifier(p=0.2, q=2).fit(kind(X), y > 0)
        return SparseoutRegressor(family=family, p=0.2, q=2).fit(kind(X), y)

    expected = fit(X)
    for units in (factor, numpy.array([1.0, factor, 1.0, factor])):
        numpy.testing.assert_allclose(fit(X * units).coef_ * units, expected.coef_, rtol=1e-6)


@pytest.mark.parametrize("q", [0.5, 1, 2, 3, 4])
@pytest.mark.parametrize("factor", [1e-90, 1e90])
def test_the_closed_form_holds_for_features_of_any_size(q, factor):
    X, y = data("gaussian")
    X = X * [1.0, factor, 1.0, factor]
    sizes = numpy.array([1.0, factor, 1.0, factor])
    # Coefficients in units of 1 / size, in which |x|^q / size^2 stays within float64.
    scaled = X / sizes
    noise = 0.3 / 0.7 * (abs(scaled) ** q).sum(0) * sizes ** (q - 2)
    with numpy.errstate(over="ignore"):
        expected = numpy.linalg.solve((scaled.T @ scaled + numpy.diag(noise)) / (1 + noise)[:, None], scaled.T @ y / (1 + noise))
    found = SparseoutRegressor(p=0.3, q=q, fit_intercept=False, tol=1e-10).fit(X, y)
    numpy.testing.assert_allclose(found.coef_ * sizes, expected, rtol=1e-4, atol=1e-9)


def test_the_closed_form_holds_for_moderate_features():
    X, y = data("gaussian")
    found = SparseoutRegressor(p=0.3, q=1, fit_intercept=False, tol=1e-8).fit(X, y)
    numpy.testing.assert_allclose(found.coef_, closed_form(X, y, 0.3, 1), rtol=1e-8)


@pytest.mark.parametrize("factor", [1e-300, 1e-100, 1e100, 1e300])
@pytest.mark.parametrize("family", ["poisson", "gamma"])
def test_a_log_link_fits_targets_of_any_size(family, factor):
    X, y = data(family)
    expected = SparseoutRegressor(family=family, p=0.1, q=1.5, tol=1e-8).fit(X, y)
    found = SparseoutRegressor(family=family, p=0.1, q=1.5, tol=1e-8).fit(X, y * factor)
    numpy.testing.assert_allclose(found.coef_, expected.coef_, rtol=1e-5)
    assert found.intercept_ - numpy.log(factor) == pytest.approx(expected.intercept_, abs=1e-5)


@pytest.mark.parametrize("weight", [1e-300, 1e300, 1e308])
def test_equal_weights_are_no_weights(weight):
    X, y = data("gaussian")
    expected = SparseoutRegressor(p=0.3).fit(X, y)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "overflow encountered in reduce", RuntimeWarning)  # scikit-learn sums the weights
        found = SparseoutRegressor(p=0.3).fit(X, y, numpy.full(len(y), weight))
    numpy.testing.assert_allclose(found.coef_, expected.coef_, rtol=1e-12)


@pytest.mark.parametrize("level", [0.0, 5.0, 1e300])
def test_constant_targets_are_their_intercept(level):
    X, y = data("gaussian")
    model = SparseoutRegressor(p=0.3).fit(X, numpy.full(len(y), level))
    assert model.intercept_ == pytest.approx(level, rel=1e-12)
    assert abs(model.coef_).max() <= 1e-12 * level


@pytest.mark.parametrize(
    ("fit", "message"),
    [
        (
            lambda X, y: SparseoutRegressor(q=20).fit(X * 1e200, y),
            r"X must have finite \|X\|\^q in float64, got \|X\| up to .*e\+200 with q=20: scale the features",
        ),
        (
            lambda X, y: SparseoutRegressor().fit(X * 1e-200, y * 1e200),
            r"X and y must lead to finite coefficients, got \|X\| up to .*e-200 and \|y\| up to .*e\+200: scale",
        ),
        (lambda X, y: SparseoutRegressor().fit(X, y, numpy.full(len(y), numpy.inf)), "sample_weight contains infinity"),
        (lambda X, y: SparseoutRegressor().fit(X, y, numpy.full(len(y), numpy.nan)), "sample_weight contains NaN"),
        (lambda X, y: SparseoutRegressor().fit(X, abs(y) * numpy.inf), "Input y contains infinity"),
        (
            lambda X, y: SparseoutClassifier().fit(X, y > 0, 1.0 * (y > 0)),
            "y must have at least two classes among the samples",
        ),
        (
            lambda X, y: SparseoutRegressor(family="poisson").fit(X, 1.0 * (y > 0), 1.0 * (y <= 0)),
            "y must not be 0 for all samples with positive weight",
        ),
    ],
)
def test_data_beyond_float64_and_invalid_weights_raise(fit, message):
    with pytest.raises(ValueError, match=message):
        fit(*data("gaussian"))


def test_a_failed_line_search_warns_with_advice():
    X, y = data("gamma")
    with pytest.warns(ConvergenceWarning, match="no step lowers .* a log link has no intercept; scale"):
        SparseoutRegressor(family="gamma", fit_intercept=False).fit(X, y * 1e200)


@pytest.mark.parametrize("method", ["marginal", "stochastic"])
@pytest.mark.parametrize(
    ("estimator", "targets"),
    [
        *(
            (lambda family=family, **options: SparseoutRegressor(family=family, **options), abs)
            for family in ("poisson", "gamma")
        ),
        (SparseoutRegressor, lambda y: y),
        (SparseoutClassifier, lambda y: y > 0),
    ],
    ids=["poisson", "gamma", "gaussian", "classes"],
)
def test_a_warm_start_from_nan_raises(estimator, targets, method):
    X, y = data("gaussian")
    y = targets(y)
    model = estimator(method=method, warm_start=True, tol=1e-1, max_iter=100, alpha=0.1).fit(X, y)
    model.coef_ = model.coef_ * numpy.nan
    with pytest.raises(ValueError, match="coef_ and intercept_ must be finite with warm_start=True"):
        model.fit(X, y)


@pytest.mark.parametrize("max_iter", [1.5, 0, True, float("nan"), "3"])
def test_a_number_of_iterations_is_an_integer(max_iter):
    with pytest.raises((TypeError, ValueError), match="max_iter must be an integer of at least 1, got"):
        SparseoutRegressor(max_iter=max_iter).fit(*data("gaussian"))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("q", [0, 1, 2])
def test_features_of_zeros_have_coefficients_of_zero(q):
    X, y = data("gaussian")
    model = SparseoutRegressor(q=q).fit(X * 0, y)
    assert (model.coef_ == 0).all()
    assert model.intercept_ == pytest.approx(y.mean())


ODD = {
    "NaN in X": (lambda X, y: (X * numpy.where(X > 1, numpy.nan, 1), y), "Input X contains NaN"),
    "infinity in X": (lambda X, y: (X * numpy.where(X > 1, numpy.inf, 1), y), "Input X contains infinity"),
    "NaN in y": (lambda X, y: (X, y * numpy.nan), "Input y contains NaN"),
    "no sample": (lambda X, y: (X[:0], y[:0]), r"Found array with 0 sample\(s\)"),
    "no feature": (lambda X, y: (X[:, :0], y), r"Found array with 0 feature\(s\)"),
    "targets in three dimensions": (lambda X, y: (X, y[:, None, None]), "Found array with dim 3"),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("method", ["marginal", "stochastic"])
def test_invalid_data_raises(kind, method):
    change, message = ODD[kind]
    with pytest.raises(ValueError, match=message):
        SparseoutRegressor(method=method).fit(*change(*data("gaussian")))


def test_one_sample_is_its_intercept():
    X, y = data("gaussian")
    model = SparseoutRegressor(p=0.3).fit(X[:1], y[:1])
    assert model.intercept_ == pytest.approx(y[0])
    assert abs(model.coef_).max() < 1e-12


# Minima at infinity

X, _ = data("gaussian")
COIN = numpy.random.default_rng(1).random(len(X)) < 0.5
COUNTS = numpy.random.default_rng(1).poisson(1.0, len(X)).astype(float)
GROUP = X[:, 0] > 1
SEPARABLE = {
    "two classes": (SparseoutClassifier, X, X[:, 0] > 0),
    "three classes": (SparseoutClassifier, X, numpy.digitize(X[:, 0], [-0.4, 0.4])),
    "up to ties": (SparseoutClassifier, numpy.array([[-2.0], [-1], [0], [0], [1], [2]]), numpy.array([0, 0, 0, 1, 1, 1])),
    "one group": (SparseoutClassifier, numpy.c_[X[:, 1:], GROUP], COIN | GROUP),
    "counts of zero": (lambda **options: SparseoutRegressor(family="poisson", **options), numpy.c_[X, COUNTS == 0], COUNTS),
}


@pytest.mark.parametrize("p", [0, 1e-12, 1e-6])
@pytest.mark.parametrize("case", SEPARABLE)
def test_separable_samples_warn_and_a_ridge_helps(case, p):
    kind, X, y = SEPARABLE[case]
    with pytest.warns(ConvergenceWarning, match="the minimum lies at infinity; use alpha > 0"):
        kind(p=p).fit(X, y)
    kind(p=p, alpha=1e-2).fit(X, y)


def test_samples_that_overlap_do_not_warn():
    for p in (0, 1e-6, 0.5):
        SparseoutClassifier(p=p).fit(X, COIN)
        SparseoutClassifier(p=p).fit(X, COIN + 1 * (numpy.arange(len(X)) % 3 == 0))
        SparseoutRegressor(family="poisson", p=p).fit(X, COUNTS)


# Stochastic


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("family", ["gamma", "poisson"])
def test_the_stochastic_fit_of_a_log_link_holds_under_heavy_noise(family):
    random = numpy.random.default_rng(1)
    X = random.normal(size=(200, 4))
    eta = X @ random.normal(size=4) * (1.5 if family == "gamma" else 1) + 0.3
    y = random.gamma(1.0, numpy.exp(eta)) if family == "gamma" else random.poisson(numpy.exp(eta)).astype(float)

    def loss(method, **options):
        model = SparseoutRegressor(family=family, p=0.5, q=0.5, method=method, **options).fit(X, y)
        coef = torch.from_numpy(model.coef_)
        return expected_loss(torch.from_numpy(X), torch.from_numpy(y), coef, 0.5, 0.5, family, model.intercept_).value.item()

    least = loss("marginal")  # the minimum to second order; the exact expected loss may be lower elsewhere
    assert loss("stochastic", tol=0, max_iter=60, random_state=0) < least + 0.05 * abs(least)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_stochastic_fit_stops_when_its_largest_change_is_small():
    X, y = data("gaussian")
    X = X * [1.0, 1e-3, 1e-3, 1e-3]
    options = {"p": 0.1, "q": 2.0, "method": "stochastic", "fit_intercept": False, "random_state": 0}
    # In units of the problem all features have the same scale.
    units = ((X**2).mean(0) * (1 + 0.1 / 0.9)) ** 0.5
    averages = [SparseoutRegressor(**options, tol=0, max_iter=n).fit(X, y).coef_ * units for n in range(1, 13)]
    changes = [abs(b - a) / abs(b).max() for a, b in itertools.pairwise(averages)]
    for n in (4, 8):
        tol = 1.0001 * changes[n - 2].max()
        first = next(k for k, change in enumerate(changes, start=2) if change.max() <= tol)
        smallest = next(k for k, change in enumerate(changes, start=2) if change.min() <= tol)
        assert SparseoutRegressor(**options, tol=tol, max_iter=12).fit(X, y).n_iter_ == first > smallest
