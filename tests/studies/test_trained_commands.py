"""The commands that use a trained run: `sparseout evaluate` and `sparseout sample`."""

import json
import shutil

import pytest

from sparseout.cli.main import main

LANGUAGE = ["--train-tokens", "3000", "--num-layers", "1", "--hidden-size", "8", "--embedding-size", "8", "--epochs", "1"]
LANGUAGE += ["--batch-size", "4"]


def run(capsys, *arguments):
    code = main(list(map(str, arguments)))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def autoencoders(tmp_path_factory):
    out = tmp_path_factory.mktemp("autoencoders") / "study"
    flags = ["--q", "1", "2", "--seed", "0", "--epochs", "2", "--hidden-size", "16", "--out", str(out)]
    assert main(["study", "autoencoder", *flags]) == 0
    return out


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    out = tmp_path_factory.mktemp("language") / "study"
    assert main(["study", "language", "--q", "1.5", *LANGUAGE, "--out", str(out)]) == 0
    (folder,) = (path.parent for path in out.glob("*/summary.json"))
    return folder


def test_evaluated_again_runs_have_the_recorded_scores(autoencoders, capsys):
    code, printed, _ = run(capsys, "evaluate", autoencoders, "--json")
    assert code == 0
    found = [json.loads(line) for line in printed.splitlines()]
    records = {path.parent: json.loads(path.read_text()) for path in autoencoders.glob("*/summary.json")}
    assert {line["run"] for line in found} == {record["run"] for record in records.values()}
    for folder, record in records.items():
        (line,) = (line for line in found if line["run"] == record["run"])
        for name in ("test_loss", "hoyer", "zeros", "rms", "layers"):
            assert line[name] == record[name]
        assert run(capsys, "evaluate", folder, "--json")[1] == json.dumps(line) + "\n"


def test_the_table_shows_a_difference_from_the_record(autoencoders, tmp_path, capsys):
    copy = shutil.copytree(autoencoders, tmp_path / "copy")
    summary = next(copy.glob("q1*/summary.json"))
    record = json.loads(summary.read_text())
    summary.write_text(json.dumps({**record, "test_loss": 2 * record["test_loss"]}))
    code, printed, _ = run(capsys, "evaluate", copy)
    assert code == 0
    rows = {words[0]: words[-1] for words in map(str.split, printed.splitlines()) if words and len(words[0]) == 12}
    assert rows[record["run"]] == "5e-01"
    assert sorted(rows.values()) == ["5e-01", "none"]


@pytest.mark.parametrize("what", ["empty", "unfinished", "nothing"])
def test_folders_that_cannot_be_evaluated(what, autoencoders, tmp_path, capsys):
    copy = shutil.copytree(autoencoders, tmp_path / "copy")
    for path in copy.glob("*/summary.json"):
        path.unlink()
    arguments, message = {
        "empty": ([copy], f"sparseout: {copy} holds no complete run"),
        "unfinished": ([next(copy.glob("q1*"))], "must be the folder of a complete run"),
        "nothing": ([], "sparseout: runs needs at least one folder, of a run or of a study"),
    }[what]
    code, printed, err = run(capsys, "evaluate", *arguments)
    assert (code, printed) == (2, "")
    assert message in err


def test_text_from_a_trained_run(language_model, capsys):
    flags = ["sample", language_model, "--prompt", "the function", "--length", "30"]
    code, printed, _ = run(capsys, *flags, "--seed", "1")
    assert code == 0
    assert printed.startswith("the function ")
    assert len(printed.split()) > 12
    assert run(capsys, *flags, "--seed", "1")[1] == printed
    assert run(capsys, *flags, "--seed", "2")[1] != printed


def test_evaluated_again_a_language_model_has_the_recorded_scores(language_model, capsys):
    record = json.loads((language_model / "summary.json").read_text())
    found = json.loads(run(capsys, "evaluate", language_model, "--json")[1])
    assert found["perplexity"] == record["perplexity"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--length", "0"], "sparseout: length must be an integer of at least 1, got 0"),
        (["--temperature", "0"], "sparseout: temperature must be a positive number, got 0.0"),
    ],
)
def test_bad_flags_of_sample(flags, message, language_model, capsys):
    assert run(capsys, "sample", language_model, *flags)[::2] == (2, message + "\n")


def test_text_needs_a_language_model(autoencoders, capsys):
    folder = next(autoencoders.glob("q1*"))
    code, _, err = run(capsys, "sample", folder)
    assert (code, err) == (2, f"sparseout: run must be of the study 'language', {folder} is of 'autoencoder'\n")
