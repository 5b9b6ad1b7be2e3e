"""Coefficient paths over p and q."""

import numpy
import pytest
from matplotlib.figure import Figure
from sklearn.datasets import load_iris

from sparseout.glm import SparseoutClassifier, SparseoutRegressor, path

RANDOM = numpy.random.default_rng(0)
X = RANDOM.normal(size=(100, 3))
Y = X @ [1.0, -0.5, 0.0] + RANDOM.normal(size=100)


def test_each_point_is_the_fit_alone():
    found = path(X, Y, q_grid=[0.5, 3.0, 1.0], estimator=SparseoutRegressor(p=0.3))
    for q, coef, intercept in zip((0.5, 3.0, 1.0), found.coefs, found.intercepts, strict=True):
        alone = SparseoutRegressor(p=0.3, q=q).fit(X, Y)
        numpy.testing.assert_allclose(coef, alone.coef_, atol=1e-7)
        numpy.testing.assert_allclose(intercept, alone.intercept_, atol=1e-7)


def test_fits_start_from_the_one_before():
    found = path(X, Y > 0, p_grid=[0.3, 0.3], estimator=SparseoutClassifier(q=1.0))
    assert found.n_iter[1] <= 1 < found.n_iter[0]


def test_more_noise_shrinks():
    found = path(X, Y, p_grid=[0.0, 0.2, 0.5, 0.8])
    assert (numpy.diff(numpy.linalg.norm(found.coefs, axis=1)) < 0).all()


def test_shapes_and_the_estimator_that_stays_as_it_is():
    data, labels = load_iris(return_X_y=True)
    model = SparseoutClassifier(alpha=0.1, tol=1e-3)
    found = path(data, labels, q_grid=[1.0, 2.0], estimator=model)
    assert (found.coefs.shape, found.intercepts.shape) == ((2, 3, 4), (2, 3))
    assert model.q == 2.0
    assert not model.warm_start
    assert not hasattr(model, "coef_")
    two = path(data[:100], labels[:100], p_grid=[0.1], estimator=model)
    assert (two.coefs.shape, two.intercepts.shape) == ((1, 4), (1,))


def test_the_plot_has_a_line_a_coefficient():
    found = path(X, Y, q_grid=[3.0, 0.5, 1.0])
    axes = found.plot(Figure().subplots())
    for line, coefs in zip(axes.lines, found.coefs.T, strict=False):
        numpy.testing.assert_allclose(line.get_xdata(), [0.5, 1.0, 3.0])
        numpy.testing.assert_allclose(line.get_ydata(), coefs[[1, 2, 0]])
    assert axes.get_xlabel() == "q"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["Dropout"]
    assert path(X, Y, p_grid=[0.5]).plot().get_legend() is None


@pytest.mark.parametrize(
    ("grids", "message"),
    [
        ({}, "exactly one of p_grid and q_grid must be given, got none"),
        ({"p_grid": [0.5], "q_grid": [1.0]}, "exactly one of p_grid and q_grid must be given, got both"),
        ({"q_grid": []}, "q_grid must be a non-empty sequence of numbers, got shape"),
        ({"p_grid": [1.0]}, r"p must be a drop probability in \[0, 1\), got 1.0"),
    ],
)
def test_bad_grids(grids, message):
    with pytest.raises(ValueError, match=message):
        path(X, Y, **grids)
