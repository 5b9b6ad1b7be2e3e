"""Scores of a user's study: in records, statistics, tables, the report, a tune stage and its choice."""

import json
import re
from pathlib import Path

import pytest
import stranger
from made import summary
from test_own_study import NAME, refused, run, summaries

from sparseout.cli.main import main
from sparseout.errors import UserError
from sparseout.records.schema import read_summary
from sparseout.records.scores import scores_of
from sparseout.report.settings import group_by_setting
from sparseout.report.statistics import compare_with_dropout, score_of
from sparseout.runs.load import load_run
from sparseout.studies.autoencoder import AutoencoderConfig
from sparseout.studies.registry import find_study

FIELDS = '    study: ClassVar[str] = "rings"\n'
OWN = (
    (FIELDS, FIELDS + '    better: ClassVar[dict[str, str]] = {"f1": "higher", "errors": "lower", "margin": "higher"}\n'),
    ('"valid_accuracy")', '"valid_accuracy", "f1", "errors", "valid_f1", "valid_errors")'),
    ('"accuracy": (', '"margin": logits.diff().abs().mean(), "accuracy": ('),
    ("loss, optimizer, items", "loss, optimizer, scores=scores, items"),
    (
        "def optimizer(",
        """def scores(network, batches):
    assert not network.training and not torch.is_grad_enabled()
    found, labels = zip(*((network(x).argmax(1), label) for x, label in batches))
    found, labels = torch.cat(found), torch.cat(labels)
    hits = (found * labels).sum()
    return {"f1": 2 * hits / (found.sum() + labels.sum()), "errors": int((found != labels).sum())}


def optimizer(""",
    ),
)


@pytest.fixture
def scored(here):
    """The stranger's study with scores of its own: F1 and a count from all batches, and a mean from the loss function."""
    write()
    return here


def write(*changes):
    text = stranger.RINGS
    for old, new in (*OWN, *changes):
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    Path("lab/rings.py").write_text(text)


def test_a_study_records_compares_and_reports_its_own_scores(scored, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert run("study", NAME, "--q", 1, 2, "--seed", 0, 1, 2, "--epochs", 3) == 0
    assert re.search(r"accuracy +f1 +errors +margin", capsys.readouterr().out)
    out = scored / "runs/rings"
    records = summaries(out)
    assert len(records) == 6
    for record in records:
        assert record["scores"] == {"f1": "higher", "errors": "lower", "margin": "higher"}
        assert record["errors"] == round(200 * (1 - record["accuracy"]))
        assert 0 <= record["f1"] <= 1
        assert {"valid_f1", "valid_errors", "valid_margin"} <= {*record}
    history = next(out.glob("*/metrics.jsonl")).read_text().splitlines()
    assert {"valid_f1", "valid_errors"} <= {*json.loads(history[-1])}
    assert main(["results", str(out)]) == 0
    text = capsys.readouterr().out
    assert text.split()[2] == "f1"
    assert re.search("q = 1 against Dropout: f1 ", text)
    for score in ("errors", "accuracy", "margin"):
        assert main(["results", str(out), "--score", score]) == 0
        assert f"against Dropout: {score} " in capsys.readouterr().out
    assert refused(capsys, "results", out, "--score", "f2") == (
        "score must be one of 'f1', 'errors', 'margin', 'accuracy', 'test_loss' here, got 'f2'"
    )
    assert refused(capsys, "results", out, "--score", "q").endswith("here, got 'q'")
    assert main(["results", str(out), "--runs"]) == 0
    assert "errors" in capsys.readouterr().out.splitlines()[0]
    page = (out / "report.html").read_text()
    assert "q = 1 against Dropout: f1 " in page
    assert all(re.search(rf">\s*{name}\s*<", page) for name in ("f1", "errors", "margin"))
    assert run("evaluate", out, "--study", NAME) == 0
    printed = capsys.readouterr().out
    assert printed.count("none") == 6
    assert "errors" in printed
    assert "f1" in repr(load_run(next(out.glob("q1*")), own=find_study(NAME)))


def test_the_direction_changes_no_run(scored):
    configs = [find_study(NAME).config(q=1.0)]
    write(('"errors": "lower"', '"errors": "higher"'))
    import sys

    del sys.modules["lab.rings"]
    configs.append(find_study(NAME).config(q=1.0))
    assert configs[0].better != configs[1].better
    assert configs[0].run == configs[1].run


@pytest.mark.parametrize(("score", "best"), [("f1", max), ("errors", min)])
def test_a_tune_stage_chooses_by_a_score_of_the_study(score, best, scored, capsys):
    Path("sweep.toml").write_text(
        f'study = "{NAME}"\nregularizer = ["dropout", "none"]\nseed = [0, 1]\nepochs = 2\nhidden_size = 4\n'
        f'[gate]\nscore = "{score}"\n[tune]\nscore = "valid_{score}"\nseed = [5]\nlr = [1e-4, 1e-2, 3e-2]\n'
    )
    run("sweep", "sweep.toml")
    text = capsys.readouterr().out
    assert f"validation {score}" in text
    assert "gate: " in text
    choice = json.loads((scored / "runs/sweep/choice.json").read_text())
    assert choice["better"] == {max: "higher", min: "lower"}[best]
    tuned = summaries(scored / "runs/sweep/tune")
    for contender in choice["contenders"]:
        scores = {record["lr"]: record[f"valid_{score}"] for record in tuned if record["regularizer"] == contender["name"]}
        assert len(set(scores.values())) > 1
        settings = contender["candidates"][contender["chosen"]]["settings"]
        assert scores[settings["lr"]] == best(scores.values())
    assert main(["results", str(scored / "runs/sweep")]) == 0
    assert f"validation {score}" in capsys.readouterr().out
    Path("sweep.toml").write_text(Path("sweep.toml").read_text().replace(f'"valid_{score}"', '"valid_f2"'))
    assert refused(capsys, "sweep", "sweep.toml").startswith(
        "sweep.toml: tune.score must be a score on validation data, 'valid_f1' or 'valid_errors' or 'valid_margin' or "
    )


BETTER = '{"f1": "higher", "errors": "lower", "margin": "higher"}'
REFUSED = [
    (BETTER, '{"f1": True}', "RingConfig.better must say of 'f1' which is better, 'higher' or 'lower', got True"),
    (BETTER, '{"F1": "higher"}', "RingConfig.better must name scores in lower-case letters, digits and _, got 'F1'"),
    *(
        (BETTER, f'{{"{name}": "higher"}}', f"RingConfig.better must not have {name!r}, which has another meaning in a record")
        for name in ("loss", "accuracy", "hidden_size", "hoyer", "valid_f1", "scores", "q", "run")
    ),
]


@pytest.mark.parametrize(("old", "new", "message"), REFUSED)
def test_a_name_or_direction_that_cannot_be_is_one_line(old, new, message, scored, capsys):
    write((old, new))
    assert refused(capsys, "study", NAME) == f"{NAME}: {message}"
    assert not Path("runs").exists()


FAILING = [
    ('"errors": int((found != labels).sum())', '"eror": 1', "mapping of scores that `better` names, got ['f1', 'eror']"),
    (', "errors": int((found != labels).sum())', "", "must return the score 'errors'"),
    ("int((found != labels).sum())", "found", "the function `scores` must return numbers, got "),
    (
        '"margin": logits.diff()',
        '"margins": logits.diff()',
        "with 'loss' and perhaps 'accuracy' or 'f1' or 'errors' or 'margin', got",
    ),
]


@pytest.mark.parametrize(("old", "new", "message"), FAILING)
def test_a_function_that_returns_something_else_fails_the_run_with_one_line(old, new, message, scored, capsys):
    write((old, new))
    assert run("study", NAME, "--q", 1, "--seed", 0) == 1
    assert message in capsys.readouterr().out
    assert not list(scored.glob("runs/rings/*/summary.json"))


def test_a_score_that_is_not_finite_is_recorded_as_missing(scored, capsys):
    write(("2 * hits / (found.sum() + labels.sum())", "float('nan')"))
    assert run("study", NAME, "--q", 1, 2, "--seed", 0, 1) == 0
    assert {record["f1"] for record in summaries(scored / "runs/rings")} == {None}
    assert main(["results", "runs/rings"]) == 0
    assert "too few seeds for a comparison" in capsys.readouterr().out


def made(**results):
    return json.dumps(summary(AutoencoderConfig(), **results)).encode()


def test_a_record_must_have_the_scores_that_it_names():
    assert read_summary(made(f1=0.5, valid_f1=None, scores={"f1": "higher"}), "x")["f1"] == 0.5
    for results in (
        {"scores": {"f1": "higher"}},
        {"f1": "much", "scores": {"f1": "higher"}},
        {"f1": 0.5, "valid_f1": "much", "scores": {"f1": "higher"}},
        {"f1": 0.5, "scores": {"f1": "best"}},
        {"f1": 0.5},
        {"accuracy": 0.5, "scores": {"accuracy": "lower"}},
        {"scores": {"q": "higher"}},
        {"F 1": 0.5, "scores": {"F 1": "higher"}},
    ):
        with pytest.raises(UserError, match="^x"):
            read_summary(made(**results), "x")


def test_a_lower_score_is_better_where_the_record_says_so():
    def records(better):
        return [
            summary(AutoencoderConfig(q=q, seed=seed), cost=q + 0.01 * seed * q, scores={"cost": better})
            for q in (1.0, 2.0)
            for seed in range(5)
        ]

    for better, word in (("lower", "a better cost"), ("higher", "a worse cost")):
        assert score_of(records(better)) == "cost"
        (comparison,) = compare_with_dropout(group_by_setting(records(better)), "cost")
        assert comparison.sentence().endswith(f"the data support {word}.")
    with pytest.raises(UserError, match="cost must be better 'higher' or 'lower' in all records, got both"):
        scores_of(records("lower") + records("higher"))
