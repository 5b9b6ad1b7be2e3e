"""The autoencoder study end to end: records, resumption, and the sparsity on real digits."""

import json
import os
from pathlib import Path

import pytest
from rich.console import Console
from safetensors.torch import load_file

from sparseout.runs.executors import SweepOptions
from sparseout.runs.options import RunOptions
from sparseout.runs.sweep import execute
from sparseout.studies.autoencoder import STUDY, Autoencoder, AutoencoderConfig, evaluate
from sparseout.studies.data import mnist
from sparseout.training.folders import RunFolder, read_lines
from sparseout.training.regularizer import regularizer_layer

RECORD = ["study", "run", "q", "p", "seed", "gradient", "regularizer", "threads", "precision"]
RECORD += ["dataset", "hidden_size", "epochs", "batch_size", "lr"]
RECORD += ["test_loss", "hoyer", "zeros", "rms", "layers", "seconds", "provenance"]

# The paper's design: Hoyer sparseness on MNIST after 4 epochs, by q.
MNIST = {
    "detached": {1.0: 0.670, 1.25: 0.599, 1.5: 0.555, 1.75: 0.516, 2.0: 0.483, 2.25: 0.454, 2.5: 0.427, 3.0: 0.384},
    "exact": {1.0: 0.444, 1.25: 0.463, 1.5: 0.478, 1.75: 0.488, 2.0: 0.483, 2.25: 0.466, 2.5: 0.444, 3.0: 0.402},
}


def study(out, data_dir=None, **axes):
    configs = STUDY.grid({name: value if isinstance(value, tuple) else (value,) for name, value in axes.items()})
    return execute(STUDY, configs, RunOptions(out, data_dir, "cpu"), SweepOptions(), Console(quiet=True))[0]


def numbers(record):
    return {key: value for key, value in record.items() if key not in ("seconds", "provenance")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("study")
    return out, study(out, q=(1.0, 2.0), seed=(0, 1), epochs=6, hidden_size=32)


def test_a_run_leaves_its_records(finished):
    out, records = finished
    assert [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()] == records
    assert len(records) == 4
    for record in records:
        assert list(record) == RECORD
        folder = next(out.glob(f"*-{record['run']}"))
        assert json.loads((folder / "summary.json").read_text()) == record
        assert json.loads((folder / "config.json").read_text())["run"] == record["run"]
        lines = read_lines(folder / "metrics.jsonl")
        assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5, 6]
        assert lines[-1]["hoyer"] == record["hoyer"]
        assert lines[-1]["test_loss"] == record["test_loss"]
        assert sorted(path.name for path in folder.iterdir()) == [
            "config.json",
            "metrics.jsonl",
            "summary.json",
            "weights.safetensors",
        ]
    assert (out / "report.html").stat().st_size > 0
    assert (out / "sparsity.png").stat().st_size > 0


def test_the_provenance_is_complete_and_names_no_place(finished):
    out, records = finished
    for record in records:
        provenance = record["provenance"]
        assert all(provenance[key] for key in ("sparseout", "torch", "python", "system", "cores", "device", "date", "command"))
        assert str(out) not in json.dumps(record)
        assert f"--seed {record['seed']}" in provenance["command"]


def test_the_weights_are_those_that_were_measured(finished):
    out, records = finished
    images = mnist.load("digits")
    for record in records:
        config = AutoencoderConfig(q=record["q"], seed=record["seed"], epochs=6, hidden_size=32)
        model = Autoencoder(64, 32, regularizer_layer(config, 32))
        model.load_state_dict(load_file(out / config.folder / "weights.safetensors"))
        assert evaluate(model, images)["hoyer"] == pytest.approx(record["hoyer"], rel=1e-6)


def test_a_complete_run_is_not_run_again(finished, monkeypatch):
    out, records = finished
    monkeypatch.setattr(RunFolder, "open", lambda self: pytest.fail("a complete run was opened"))
    assert study(out, q=(1.0, 2.0), seed=(0, 1), epochs=6, hidden_size=32) == records


def test_a_run_repeats_to_the_same_numbers(finished, tmp_path):
    _, records = finished
    again = study(tmp_path, q=(1.0, 2.0), seed=(0, 1), epochs=6, hidden_size=32)
    assert list(map(numbers, again)) == list(map(numbers, records))


def test_no_noise_and_p_0_train_alike_and_dropout_differs(tmp_path):
    none, zero, dropout, two = (
        study(tmp_path / name, epochs=3, hidden_size=16, **settings)[0]
        for name, settings in {
            "none": {"regularizer": "none"},
            "zero": {"p": 0.0, "q": 1.0},
            "dropout": {"regularizer": "dropout"},
            "two": {"q": 2.0},
        }.items()
    )
    assert none["test_loss"] == zero["test_loss"]
    assert len({record["test_loss"] for record in (none, dropout, two)}) == 3


def test_one_hidden_unit_has_no_hoyer_sparseness(tmp_path):
    (record,) = study(tmp_path, epochs=1, hidden_size=1)
    assert record["hoyer"] is None
    assert (tmp_path / "report.html").exists()


def test_sparseness_falls_with_q_on_digits(tmp_path):
    records = study(tmp_path, q=(1.0, 2.0, 3.0), epochs=40)
    by_q = {record["q"]: record["hoyer"] for record in records}
    assert by_q[1.0] > by_q[2.0] + 0.05 > by_q[3.0] + 0.08


def check_against_the_design(tmp_path, gradient, qs):
    records = study(tmp_path, Path(os.environ["SPARSEOUT_DATA"]), dataset="mnist", epochs=4, gradient=gradient, q=qs)
    hoyer = [record["hoyer"] for record in sorted(records, key=lambda record: record["q"])]
    assert hoyer == pytest.approx([MNIST[gradient][q] for q in qs], abs=0.02)
    return hoyer


needs_mnist = pytest.mark.skipif("SPARSEOUT_DATA" not in os.environ, reason="SPARSEOUT_DATA names no folder with mnist/")


@needs_mnist
@pytest.mark.slow
def test_on_mnist_detached_falls_strictly_and_exact_does_not(tmp_path):
    detached = check_against_the_design(tmp_path / "detached", "detached", tuple(MNIST["detached"]))
    assert detached == sorted(detached, reverse=True)
    exact = check_against_the_design(tmp_path / "exact", "exact", tuple(MNIST["exact"]))
    assert exact != sorted(exact, reverse=True)
    assert exact[0] < exact[4]
