"""The figure of methods shows the means of the records, names every method, and divides times by those without noise."""

import numpy
import pytest
from compared import curve, record
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from sparseout import report
from sparseout.report.methods import methods_of
from sparseout.report.methods_figure import MAX_METHODS, relative_seconds, spread, write_methods

LOSSES = {0.5: 0.1, 0.8: 0.2}


def runs(*methods, **changes):
    return [run for method in methods for seed in range(3) for run in curve(method, seed, LOSSES, seed / 1000, **changes)]


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draw records, and what a tune stage chose, and return the panels."""

    def drawn(records, choice=None):
        figures = []
        monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: figures.append(figure))
        write_methods(records, tmp_path / "methods.png", choice)
        return figures[0].axes

    return drawn


def test_lines_points_and_names(drawn):
    points = [record("dropout", seed, 0.6, 0.3) for seed in range(3)] + [record("none", seed, 0.2, 0.4) for seed in range(3)]
    hoyer, zeros, seconds = drawn([*runs("sparseout", "l1"), *points])
    for panel in (hoyer, zeros):
        means = [container.lines[0].get_xydata() for container in panel.containers]
        for i, expected in enumerate(([[0.501, 0.1], [0.801, 0.2]], [[0.6, 0.3]], [[0.501, 0.1], [0.801, 0.2]])):
            assert means[i] == pytest.approx(numpy.array(expected))
        assert sorted(text.get_text() for text in panel.texts) == ["L1", "Sparseout", "nn.Dropout", "no noise"]
    assert [text.get_text() for text in seconds.get_yticklabels()] == ["Sparseout", "nn.Dropout", "L1", "no noise"]


def test_intervals_of_a_sparsity_stay_within_0_and_1(drawn):
    records = [run for seed, zeros in enumerate((0.0, 0.1, 0.8)) for run in curve("sparseout", seed, LOSSES, zeros=zeros)]
    records += runs("l1")
    panel = drawn(records)[1]
    bars = panel.containers[0].lines[2][0].get_segments()
    assert [list(bar[:, 0]) for bar in bars] == [[0.0, 1.0]] * 2
    assert all(0 <= round(tick, 9) <= 1 for tick in panel.get_xticks())


def test_the_names_of_methods_without_a_target_cover_no_other_name(drawn):
    points = [record("none", seed, 0.82, 0.2) for seed in range(3)]
    panel = drawn([*runs("sparseout", "l1", "hoyer_square"), *points])[0]
    panel.figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in panel.texts]  # that of an annotation includes its line
    assert not any(box.overlaps(other) for i, box in enumerate(boxes) for other in boxes[:i])


def test_the_score_is_the_one_that_the_sweep_fixed(drawn):
    records = runs("sparseout", "l1", accuracy=0.5)
    for choice, title in (
        (None, "Accuracy"),
        ({"score": "valid_loss"}, "Test loss"),
        ({"score": "valid_loss", "gate": {"score": "accuracy", "pairs": []}}, "Accuracy"),
        ({"score": "valid_perplexity"}, "Accuracy"),
    ):
        assert drawn(records, choice)[0].get_title(loc="left") == f"{title} against Hoyer sparseness"


def test_a_study_without_zeros_has_no_panel_for_them(drawn):
    assert len(drawn(runs("sparseout", "l1", zeros=0.0))) == 1
    assert len(drawn(runs("sparseout", "l1"))) == 2


def test_more_methods_than_can_be_distinguished_are_counted(drawn):
    variants = [run for i in range(MAX_METHODS) for run in runs("k_winners", boost_strength=i)]
    axes = drawn([*runs("sparseout"), *variants])
    assert axes[0].figure.get_suptitle() == "The first 12 of 13 methods"
    assert len(axes[0].containers) == MAX_METHODS


def test_a_run_that_diverged_is_not_drawn(drawn):
    axes = drawn([*runs("sparseout"), *runs("l1", test_loss=None, hoyer=None)])
    assert [text.get_text() for text in axes[0].texts] == ["Sparseout"]


def test_times_are_relative_to_no_noise_of_the_same_task_and_machine():
    def other(**changes):
        return {"provenance": {**record("none", 0, 0, 0)["provenance"], "cpu": "another"}, **changes}

    records = curve("sparseout", 0, {0.5: 1.0}, seconds=30.0) + curve("sparseout", 1, {0.5: 1.0}, **other(seconds=8.0))
    records += curve("l1", 0, {0.5: 1.0}, seconds=5.0, dataset="mnist")
    records += [record("none", seed, 0.2, 1.0, seconds=9.0 + 2 * seed) for seed in (0, 1)]
    records += [record("none", 2, 0.2, 1.0, **other(seconds=4.0))]
    found = relative_seconds(methods_of(records))
    assert found == {"Sparseout": [3.0, 2.0], "no noise": pytest.approx([0.9, 1.1, 1.0])}


def test_names_keep_their_distance_and_their_order():
    assert spread([], 1) == []
    assert spread([1.0, 1.0, 1.0, 7.0], 2) == [-1.0, 1.0, 3.0, 7.0]
    assert spread([0.0, 5.0], 2) == [0.0, 5.0]


def test_the_report_writes_the_figure_and_the_page(tmp_path, visit):
    records = [*runs("sparseout"), *(record("dropout", seed, 0.6, 0.3 + seed / 100) for seed in range(3))]
    records += [record("none", seed, 0.2, 0.4) for seed in range(3)]
    report.write(records, {}, tmp_path)
    with Image.open(tmp_path / "methods.png") as image:
        assert image.width > 1500
    page = visit(tmp_path / "report.html")
    rows = page.locator("h2:text('Methods at equal') ~ .scroll tbody").first.locator("tr")
    assert [row.split("\t")[0] for row in rows.all_inner_texts()] == ["nn.Dropout", "no noise"]
    assert page.evaluate("() => document.getElementById('methods-hoyer').data.map((trace) => trace.name)") == [
        "Sparseout",
        "nn.Dropout",
        "no noise",
    ]
    assert "no noise at its own hoyer: Sparseout did not reach it in 3 of 3 seeds." in page.content()


def test_a_study_of_one_method_has_no_such_figure(tmp_path):
    report.write(runs("sparseout"), {}, tmp_path)
    assert not (tmp_path / "methods.png").exists()
    assert "Methods at equal" not in (tmp_path / "report.html").read_text()
