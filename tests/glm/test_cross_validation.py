"""The estimators that choose p and q, several outputs, and the weights of classes."""

import numpy
import pytest
from joblib import parallel_config
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.utils.estimator_checks import parametrize_with_checks

from sparseout.glm import SparseoutClassifier, SparseoutClassifierCV, SparseoutRegressor, SparseoutRegressorCV

SMALL = {"p_grid": (0.5, 0.1), "q_grid": (1.0, 2.0)}
RANDOM = numpy.random.default_rng(0)
X = RANDOM.normal(size=(120, 4))
ETA = X @ [1.0, -0.5, 0.0, 0.3]
Y = ETA + RANDOM.normal(size=120)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks(
    [
        SparseoutRegressorCV(p_grid=(0.1,), q_grid=(1.0, 2.0), cv=2),
        SparseoutClassifierCV(p_grid=(0.1,), q_grid=(1.0, 2.0), cv=2),
        SparseoutClassifier(class_weight="balanced"),
    ]
)
def test_the_checks_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.parametrize("classes", [0, 2, 3])
def test_the_choice_is_that_of_a_grid_search(classes):
    kind, plain = (SparseoutClassifierCV, SparseoutClassifier) if classes else (SparseoutRegressorCV, SparseoutRegressor)
    y = numpy.digitize(Y, [-0.5, 0.5][: classes - 1]) if classes else Y
    shared = {"alpha": 0.01, "tol": 1e-7, "fit_intercept": False}
    scoring = "neg_log_loss" if classes else "neg_mean_squared_error"
    with parallel_config("threading"):  # processes import torch first, which takes seconds
        found = kind(**SMALL, **shared, scoring=scoring, n_jobs=2).fit(X, y)
    grid = {"p": list(SMALL["p_grid"]), "q": list(SMALL["q_grid"])}
    search = GridSearchCV(plain(**shared), grid, scoring=scoring).fit(X, y)
    assert (found.p_, found.q_) == (search.best_params_["p"], search.best_params_["q"])
    assert found.best_score_ == pytest.approx(search.best_score_, rel=1e-6)
    numpy.testing.assert_allclose(found.scores_.mean(-1).ravel(), search.cv_results_["mean_test_score"], rtol=1e-5)
    numpy.testing.assert_allclose(found.coef_, search.best_estimator_.coef_, rtol=1e-6)
    numpy.testing.assert_array_equal(found.predict(X) if classes else 0, search.predict(X) if classes else 0)


def test_splits_scorers_and_weights_are_used():
    weights = numpy.where(numpy.arange(120) < 60, 1.0, 0.0)
    first = KFold(3).split(X[:60])
    found = SparseoutRegressorCV(**SMALL, cv=list(first), tol=1e-8).fit(X, Y, weights)
    alone = SparseoutRegressorCV(**SMALL, cv=KFold(3), tol=1e-8).fit(X[:60], Y[:60])
    numpy.testing.assert_allclose(found.coef_, alone.coef_, rtol=1e-5)
    preferred = SparseoutRegressorCV(**SMALL, scoring=lambda model, X, y: model.q + model.p).fit(X, Y)
    assert (preferred.p_, preferred.q_) == (0.5, 2.0)


def test_without_a_finite_score_there_is_no_choice():
    with pytest.raises(ValueError, match="scoring must be finite for at least one point of the grid"):
        SparseoutRegressorCV(**SMALL, scoring=lambda model, X, y: float("nan")).fit(X, Y)
    found = SparseoutRegressorCV(**SMALL, scoring=lambda model, X, y: 1.0 if model.p < 0.3 else float("nan")).fit(X, Y)
    assert found.p_ == 0.1


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_fits_that_do_not_converge_are_counted():
    with pytest.warns(ConvergenceWarning, match="20 of 20 fits of the cross-validation did not converge"):
        SparseoutRegressorCV(**SMALL, max_iter=1, tol=1e-12).fit(X, Y)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"p_grid": ()}, r"p_grid must be a non-empty sequence of numbers, got \(\)"),
        ({"q_grid": 2.0}, "q_grid must be a non-empty sequence of numbers, got 2.0"),
        ({"p_grid": (0.5, 1.0)}, r"p must be a drop probability in \[0, 1\), got 1.0"),
        ({"q_grid": (-1.0,)}, "q must be a finite norm of at least 0, got -1.0"),
    ],
)
def test_bad_grids(parameters, message):
    with pytest.raises(ValueError, match=message):
        SparseoutRegressorCV(**parameters).fit(X, Y)


def test_each_output_is_a_fit_of_its_own():
    outputs = numpy.column_stack([numpy.exp(ETA), 5 + 0 * ETA, X[:, 2] ** 2])
    model = SparseoutRegressor(p=0.2, q=1.5, tol=1e-8).fit(X, outputs)
    assert (model.coef_.shape, model.intercept_.shape, model.predict(X).shape) == ((3, 4), (3,), (120, 3))
    for k, output in enumerate(outputs.T):
        alone = SparseoutRegressor(p=0.2, q=1.5, tol=1e-8).fit(X, output)
        numpy.testing.assert_allclose(model.coef_[k], alone.coef_, atol=1e-9)
        numpy.testing.assert_allclose(model.predict(X)[:, k], alone.predict(X), atol=1e-7)
    again = clone(model).set_params(warm_start=True).fit(X, outputs)
    assert again.fit(X, outputs).n_iter_ <= 1
    again.fit(X, Y**2)
    assert again.coef_.shape == (4,)
    with pytest.raises(ValueError, match="1d array"):
        SparseoutRegressor(family="gamma").fit(X, outputs + 1)


def test_several_outputs_agree_with_ridge():
    features, target = load_diabetes(return_X_y=True)
    both = numpy.column_stack([target, -2 * target])
    ours = SparseoutRegressor(p=0, alpha=0.1, tol=1e-8).fit(features, both)
    numpy.testing.assert_allclose(ours.coef_, Ridge(0.1 * len(target)).fit(features, both).coef_, rtol=1e-5)


@pytest.mark.parametrize("weight", ["balanced", {0: 1.0, 1: 3.0, 2: 0.5}])
def test_class_weights_are_sample_weights(weight):
    features, labels = load_iris(return_X_y=True)
    features, labels = features[:130], labels[:130]
    ours = SparseoutClassifier(p=0, alpha=1.0, tol=1e-8, class_weight=weight).fit(features, labels)
    counts = numpy.bincount(labels)
    by_class = len(labels) / (3 * counts) if weight == "balanced" else numpy.array([1.0, 3.0, 0.5])
    same = SparseoutClassifier(p=0, alpha=1.0, tol=1e-8).fit(features, labels, by_class[labels])
    numpy.testing.assert_allclose(ours.coef_, same.coef_, atol=1e-9)
    total = by_class[labels].sum()
    theirs = LogisticRegression(C=1 / total, tol=1e-10, class_weight=weight).fit(features, labels)
    numpy.testing.assert_allclose(ours.predict_proba(features), theirs.predict_proba(features), atol=1e-5)


def test_a_bad_class_weight():
    with pytest.raises(ValueError, match="class_weight must be None, 'balanced' or a dict, got 'even'"):
        SparseoutClassifier(class_weight="even").fit(X, Y > 0)
