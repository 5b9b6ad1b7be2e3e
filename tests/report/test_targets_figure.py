"""The figure of runs with a target counts the runs without a measurement."""

import pytest

figure = pytest.importorskip("matplotlib.figure")
from sparseout.report.settings import Setting  # noqa: E402
from sparseout.report.targets import _draw_achieved, _draw_course  # noqa: E402


def setting(*achieved):
    course = {"measured": [None, 0.4, 0.5]}
    runs = [{"control": {"achieved": value, "course": course}} for value in achieved]
    return Setting({"regularizer": "sparseout", "target_sparsity": 0.5}, runs)


@pytest.mark.parametrize(
    ("achieved", "words"),
    [((0.49, None, 0.5), ["not measured: 1 of 3 runs"]), ((None,), ["not measured: 1 of 1 runs"]), ((0.5,), [])],
)
def test_a_run_that_was_not_measured_is_counted_and_not_drawn(achieved, words):
    axes = figure.Figure().subplots()
    _draw_achieved(axes, [setting(*achieved)], [], "hoyer", {0.5: "C0"})
    assert [text.get_text() for text in axes.texts] == words
    dots = [
        line.get_ydata().tolist() if hasattr(line.get_ydata(), "tolist") else list(line.get_ydata()) for line in axes.lines[1:]
    ]
    assert dots == [[value for value in achieved if value is not None]]


def test_a_course_is_drawn_from_its_first_measurement():
    axes = figure.Figure().subplots()
    _draw_course(axes, [setting(0.5)], "measured", {0.5: "C0"})
    axes.figure.canvas.draw()
    assert axes.dataLim.y0 == 0.4
