"""Coefficient paths over p and q."""

import numpy
import pandas
import pytest
from matplotlib.figure import Figure
from sklearn.datasets import load_iris

from sparseout.glm import SparseoutClassifier, SparseoutRegressor, path, path_figure

RANDOM = numpy.random.default_rng(0)
X = RANDOM.normal(size=(100, 3))
Y = X @ [1.0, -0.5, 0.0] + RANDOM.normal(size=100)


def test_each_point_equals_a_separate_fit():
    found = path(X, Y, q_grid=[0.5, 3.0, 1.0], estimator=SparseoutRegressor(p=0.3))
    for q, coef, intercept in zip((0.5, 3.0, 1.0), found.coefs, found.intercepts, strict=True):
        alone = SparseoutRegressor(p=0.3, q=q).fit(X, Y)
        numpy.testing.assert_allclose(coef, alone.coef_, atol=1e-7)
        numpy.testing.assert_allclose(intercept, alone.intercept_, atol=1e-7)


def test_fits_start_from_the_previous_one():
    found = path(X, Y > 0, p_grid=[0.3, 0.3], estimator=SparseoutClassifier(q=1.0))
    assert found.n_iter[1] <= 1 < found.n_iter[0]


def test_more_noise_shrinks():
    found = path(X, Y, p_grid=[0.0, 0.2, 0.5, 0.8])
    assert (numpy.diff(numpy.linalg.norm(found.coefs, axis=1)) < 0).all()


def test_shapes_and_an_unchanged_estimator():
    data, labels = load_iris(return_X_y=True)
    model = SparseoutClassifier(alpha=0.1, tol=1e-3)
    found = path(data, labels, q_grid=[1.0, 2.0], estimator=model)
    assert (found.coefs.shape, found.intercepts.shape) == ((2, 3, 4), (2, 3))
    assert model.q == 2.0
    assert not model.warm_start
    assert not hasattr(model, "coef_")
    two = path(data[:100], labels[:100], p_grid=[0.1], estimator=model)
    assert (two.coefs.shape, two.intercepts.shape) == ((1, 4), (1,))


def test_both_grids_give_a_path_over_q_for_each_p():
    found = path(X, Y, p_grid=[0.5, 0.1], q_grid=[2.0, 1.0, 0.5], estimator=SparseoutRegressor(tol=1e-9))
    assert (found.coefs.shape, found.intercepts.shape, found.n_iter.shape, len(found)) == ((2, 3, 3), (2, 3), (2, 3), 2)
    for i, p in enumerate((0.5, 0.1)):
        assert (found[i].fixed, found[i].parameter) == (p, "q")
        for j, q in enumerate((2.0, 1.0, 0.5)):
            numpy.testing.assert_allclose(found.coefs[i, j], SparseoutRegressor(p=p, q=q, tol=1e-9).fit(X, Y).coef_, atol=1e-7)
    first, second = found.plot().axes
    assert first.get_ylim() == second.get_ylim()
    assert first.get_ylim()[1] > found.coefs.max() > found[0].coefs.max()
    assert (first.get_title("left"), second.get_title("left")) == ("p = 0.5", "p = 0.1")


def test_names_of_features_classes_and_outputs():
    frame = pandas.DataFrame(X, columns=["age", "height", "weight"])
    assert path(frame, Y, p_grid=[0.1]).names() == ["age", "height", "weight"]
    assert path(X, Y > 0, p_grid=[0.1], estimator=SparseoutClassifier()).names() == ["x0", "x1", "x2"]
    both = path(frame, numpy.column_stack([Y, -Y]), p_grid=[0.1, 0.2])
    assert both.coefs.shape == (2, 2, 3)
    assert both.names()[2:4] == ["weight, output 0", "age, output 1"]
    three = path(X, numpy.digitize(Y, [-1, 1]) + 5, p_grid=[0.1], estimator=SparseoutClassifier(alpha=0.1))
    assert three.names()[3] == "x0, 6"


def test_a_path_is_shown_in_short_and_as_a_table_of_the_largest_coefficients():
    found = path(X, Y, q_grid=[3.0, 1.0])
    assert repr(found) == "Path of 3 coefficients over 2 values of q in [1, 3], p = 0.5"
    assert found._repr_html_().count("<tr>") == 3
    wide = path(RANDOM.normal(size=(100, 20)), Y, p_grid=[0.1])
    assert "the 12 largest of 20 coefficients" in wide._repr_html_()
    assert wide._repr_html_().count("<th ") == 14
    assert found.plot()._repr_png_().startswith(b"\x89PNG")


def test_names_at_the_lines_do_not_overlap_and_stay_inside():
    heights = path_figure.spread([0.98, 0.99, 0.99, 1.0], 0.05)
    assert (numpy.diff(heights) >= 0.05 - 1e-12).all()
    assert heights[-1] <= 1
    assert path_figure.spread([0.1, 0.5], 0.05) == [0.1, 0.5]


def test_the_plot_has_a_line_for_each_coefficient():
    found = path(X, Y, q_grid=[3.0, 0.5, 1.0])
    axes = Figure().subplots()
    assert found.plot(axes) is axes.figure
    for line, coefs in zip(axes.lines, found.coefs.T, strict=False):
        numpy.testing.assert_allclose(line.get_xdata(), [0.5, 1.0, 3.0])
        numpy.testing.assert_allclose(line.get_ydata(), coefs[[1, 2, 0]])
    assert axes.get_xlabel() == "norm q"
    assert axes.texts[0].get_text() == "Dropout"
    assert {text.get_text() for text in axes.texts[1:]} == {"x0", "x1", "x2"}
    assert "Dropout" not in [text.get_text() for text in path(X, Y, p_grid=[0.5]).plot().axes[0].texts]


@pytest.mark.parametrize(
    ("grids", "message"),
    [
        ({}, "p_grid, q_grid or both must be given, got none"),
        ({"q_grid": []}, r"q_grid must be a non-empty sequence of numbers, got \[\]"),
        ({"p_grid": [1.0]}, r"p must be a drop probability in \[0, 1\), got 1.0"),
    ],
)
def test_bad_grids(grids, message):
    with pytest.raises(ValueError, match=message):
        path(X, Y, **grids)
