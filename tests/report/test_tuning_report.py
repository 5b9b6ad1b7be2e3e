"""The report of a tuned study: curves, warnings and the gate."""

import math

import pytest
from matplotlib.figure import Figure

from sparseout import report
from sparseout.errors import UserError
from sparseout.records.choice import read_choice
from sparseout.records.json_lines import to_json
from sparseout.report.tuning import gate_result, tuning_curves, tuning_sentences, tuning_table, write_tuning

RUN = "0123456789a{}".format


def contender(name, p, scores, chosen, **changes):
    candidates = [
        {"settings": {"p": value}, "runs": [RUN(i)], "scores": [score], "mean": score}
        for i, (value, score) in enumerate(zip(p, scores, strict=True))
    ]
    for candidate in candidates:
        candidate["missed"] = 0
    values = {"effort": len(p), "missing": 0, "edges": [], "last_epoch": 0, "runs": []}
    return {"name": name, "candidates": candidates, "chosen": chosen, **values, **changes}


CHOICE = {
    "score": "valid_loss",
    "seeds": [100],
    "contenders": [
        contender("dropout", [0.3, 0.1, 0.5], [2.0, 3.0, 1.0], 2, edges=["p"], last_epoch=1),
        contender("q 1.5", [0.3, 0.1, 0.5], [2.0, None, 4.0], 0),
        contender("none", [0.0], [2.5], 0, effort=3),
        contender("nan", [0.1, 0.3, 0.5], [None] * 3, None),
        contender("waits", [0.1, 0.3, 0.5], [1.0, 2.0, None], None, missing=1),
    ],
    "gate": None,
}


def test_the_table_names_the_chosen_candidate():
    header, rows = tuning_table(CHOICE)
    assert header == ["contender", "candidates", "chosen", "validation loss"]
    assert rows == [
        ["dropout", "3", "p 0.5", "1"],
        ["q 1.5", "3", "p 0.3", "2"],
        ["none", "1", "nothing to tune", "2.5"],
        ["nan", "3", "-", "-"],
        ["waits", "3", "-", "-"],
    ]


def test_the_warnings():
    assert tuning_sentences(CHOICE, []) == [
        "warning: dropout: the chosen p 0.5 is at the edge of its grid, 0.1 to 0.5.",
        "warning: dropout: the best epoch is the last one in 1 of 1 tuning runs.",
        "warning: q 1.5: not eligible, because a run has no finite score: p 0.1.",
        "none: 1 of 3 candidates differ, because not every tuned setting has an effect.",
        "warning: nan: not eligible, because a run has no finite score: p 0.1; p 0.3; p 0.5.",
        "warning: nan: nothing was chosen, because no candidate is eligible.",
        "warning: waits: nothing was chosen, because 1 tuning run is not complete.",
    ]


def test_a_test_run_whose_best_epoch_is_the_last_is_named_and_what_was_not_tuned():
    choice = {**CHOICE, "contenders": [contender("dropout", [0.1], [1.0], 0, runs=[RUN("a"), RUN("b")])]}
    same = {"study": "image", "regularizer": "dropout", "p": 0.1, "lr": 0.1, "epochs": 5}
    records = [same | {"run": RUN("a"), "seed": 0, "best_epoch": 5}, same | {"run": RUN("b"), "seed": 1, "best_epoch": 4}]
    assert tuning_sentences(choice, records) == [
        "warning: dropout: the best epoch is the last one in 1 of 2 test runs.",
        "Not tuned, and the same in all runs: lr 0.1, epochs 5.",
    ]


def test_a_curve_has_a_point_for_each_value_and_no_tuning_is_a_level_line():
    (panel,) = tuning_curves(CHOICE)
    assert (panel["name"], panel["score"]) == ("p", "validation loss")
    assert panel["lines"][:3] == [
        {"name": "dropout", "x": [0.1, 0.3, 0.5], "y": [3.0, 2.0, 1.0], "chosen": 0.5},
        {"name": "q 1.5", "x": [0.1, 0.3, 0.5], "y": [None, 2.0, 4.0], "chosen": 0.3},
        {"name": "none", "x": [0.1, 0.5], "y": [2.5, 2.5], "chosen": None},
    ]


def test_with_two_tuned_settings_a_point_is_the_best_over_the_other():
    candidates = [
        {"settings": {"p": p, "lr": lr}, "runs": [RUN(0)], "scores": [p * lr], "mean": p * lr}
        for p in (0.1, 0.2)
        for lr in (1, 2)
    ]
    choice = {**CHOICE, "contenders": [contender("a", [0], [0], 0) | {"candidates": candidates, "chosen": 0}]}
    assert [(panel["name"], panel["lines"][0]["y"]) for panel in tuning_curves(choice)] == [("p", [0.1, 0.2]), ("lr", [0.1, 0.2])]
    accuracy = {**choice, "score": "valid_accuracy"}
    assert [panel["lines"][0]["y"] for panel in tuning_curves(accuracy)] == [[0.2, 0.4], [0.2, 0.4]]


def runs(score, values):
    return [None if value is None else {score: None if math.isnan(value) else value} for value in values]


@pytest.mark.parametrize(
    ("score", "dropout", "none", "result"),
    [
        ("accuracy", [0.52, 0.53, 0.54], [0.5, 0.5, 0.5], "passed, accuracy +3 points (95 % 0.52 to 5.5, 3 seeds)"),
        (
            "accuracy",
            [0.5, 0.5, 0.5],
            [0.52, 0.53, 0.54],
            "NOT passed: this task cannot tell methods apart by accuracy, -3 points",
        ),
        ("perplexity", [90.0, 91.0, 92.0], [100.0] * 3, "passed, perplexity -9 (95 % -11 to -6.5, 3 seeds)"),
        ("perplexity", [100.0] * 3, [90.0, 91.0, 92.0], "NOT passed"),
        ("accuracy", [0.5, 0.6, 0.4], [0.45, 0.65, 0.35], "NOT passed"),
        ("accuracy", [0.52, 0.53, math.nan], [0.5, 0.5, 0.5], ", 2 seeds, 1 without a result)"),
        (
            "accuracy",
            [0.52, 0.53, 0.54, None],
            [0.5, 0.5, 0.5, 0.5],
            "passed, accuracy +3 points (95 % 0.52 to 5.5, 3 seeds, 1 wi",
        ),
        ("accuracy", [0.52, None], [None, 0.5], "NOT decided: Dropout and no noise have 0 seeds in common with a result"),
        ("accuracy", [], [], "NOT decided"),
        (
            "accuracy",
            [0.75, 0.75],
            [0.5, 0.5],
            "NOT decided: accuracy +25 points in each of 2 seeds, so there is nothing to test",
        ),
    ],
)
def test_the_gate_passes_only_if_the_interval_is_on_the_better_side(score, dropout, none, result):
    assert result in gate_result(score, runs(score, dropout), runs(score, none))
    assert gate_result(score, runs(score, dropout), runs(score, none)).startswith("passed") == result.startswith("passed")


def test_the_figure_has_a_line_for_each_contender(tmp_path, monkeypatch):
    drawn = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **kw: (drawn.append(figure), save(figure, *args, **kw)))
    write_tuning(CHOICE, tmp_path / "tuning.png")
    (axes,) = drawn[0].axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["dropout", "q 1.5", "none", "nan", "waits"]
    assert (tmp_path / "tuning.png").stat().st_size > 1000


def test_the_page_has_the_table_the_warnings_and_the_curves(tmp_path):
    report.write([], {}, tmp_path, (), CHOICE)
    page = (tmp_path / "report.html").read_text()
    assert "<h2>Tuning</h2>" in page
    assert "the chosen p 0.5 is at the edge of its grid, 0.1 to 0.5." in page
    assert 'id="tuning-0"' in page
    report.write([], {}, tmp_path)
    assert "<h2>Tuning</h2>" not in (tmp_path / "report.html").read_text()


def test_a_choice_is_read_as_it_was_written_and_a_damaged_one_is_refused(tmp_path):
    assert read_choice(tmp_path) is None
    path = tmp_path / "choice.json"
    path.write_text(to_json(CHOICE))
    assert read_choice(tmp_path) == CHOICE
    for text, message in (
        (to_json(CHOICE)[:-5], "choice.json cannot be read as JSON"),
        (to_json({**CHOICE, "score": "test_loss"}), "score must be one of 'valid_loss', "),
        (to_json({**CHOICE, "contenders": [contender("a", [0.1], [1.0], 1)]}), "chosen must be one of the 1 candidates, got 1"),
        (to_json({**CHOICE, "gate": {"score": "accuracy", "pairs": [[0, 9]]}}), "pairs must be indices of the 5 contenders"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_choice(tmp_path)
