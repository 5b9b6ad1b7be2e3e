"""`sparseout probe run:FOLDER`: a model that a study trained, and folders that are not a complete run."""

import json
from pathlib import Path

import pytest
import torch
from probe_cli import Bomb, copied, probe, refused

from sparseout.cli.main import main
from sparseout.probe import Summary
from sparseout.runs.load import load_run
from sparseout.studies import autoencoder


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    arguments = ["study", "autoencoder", "--q", "1", "--seed", "0", "--hidden-size", "32", "--epochs", "3", "--out", str(out)]
    assert main(arguments) == 0
    return next(out.glob("q1*"))


def test_a_model_that_a_study_trained(study, tmp_path, capsys):
    out, page = tmp_path / "summary.json", tmp_path / "report.html"
    assert probe(capsys, f"run:{study}", "--json", out, "--html", page)[0] == 0
    record = json.loads((study / "summary.json").read_text())["layers"]["noise"]
    found = Summary.read(out)["noise"]
    assert (found.vectors, found.units, found.value) == (record["vectors"], record["units"], "clean input")
    for measure in ("hoyer", "zeros", "rms"):
        assert getattr(found, measure) == pytest.approx(record[measure], rel=1e-6)
    assert "Over training" in page.read_text()


def test_a_trained_model_is_loaded_with_its_data_and_history(study):
    run = load_run(study)
    assert run.config.hidden_size == 32
    assert isinstance(run.network, autoencoder.Autoencoder)
    assert sum(map(len, run.study.test_batches(run.data))) == 360
    assert [epoch["epoch"] for epoch in run.history] == [1, 2, 3]


@pytest.mark.parametrize("damage", ["unfinished", "weights", "pickle", "config", "settings", "another study", "of another size"])
def test_a_folder_that_is_not_a_complete_run(damage, study, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = copied(study, tmp_path / "run")
    settings = json.loads((folder / "config.json").read_text())
    changes = {
        "unfinished": lambda: (folder / "summary.json").unlink(),
        "weights": lambda: (folder / "weights.safetensors").write_bytes(b"nonsense"),
        "pickle": lambda: torch.save({"encoder": Bomb()}, folder / "weights.safetensors"),
        "config": lambda: (folder / "config.json").write_text("{"),
        "settings": lambda: (folder / "config.json").write_text(json.dumps({**settings, "p": 7})),
        "another study": lambda: (folder / "config.json").write_text(json.dumps({**settings, "study": "other"})),
        "of another size": lambda: (folder / "config.json").write_text(json.dumps({**settings, "hidden_size": 33})),
    }
    changes[damage]()
    messages = {
        "unfinished": "must be the folder of a complete run",
        "weights": "does not hold the weights of this run",
        "pickle": "does not hold the weights of this run",
        "config": "config.json cannot be read",
        "settings": "config.json: p must be a drop probability in [0, 1], got 7",
        "another study": "config.json: study must be one of ",
        "of another size": "config.json was edited: run is",
    }
    assert messages[damage] in refused(capsys, f"run:{folder}")
    assert not Path("executed").exists()


def test_a_run_has_one_folder_of_data(study, capsys):
    assert "--data must be a single folder for run:" in refused(capsys, f"run:{study}", "--data", "a", "b")
