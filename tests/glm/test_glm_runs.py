"""The study `glm`: a run is a fit of the estimator, and its record has the noise's cost and the theorem's penalty."""

import numpy
import pytest
import torch
from rich.console import Console
from sklearn.metrics import accuracy_score, log_loss

from sparseout.cli.main import main
from sparseout.glm import SparseoutClassifier
from sparseout.runs.executors import SweepOptions
from sparseout.runs.load import load_run
from sparseout.runs.options import RunOptions
from sparseout.runs.sweep import execute
from sparseout.studies.glm import study
from sparseout.studies.glm.study import STUDY, GlmConfig

GRID = {"dataset": ("breast-cancer", "diabetes", "digits", "counts", "synthetic-weak"), "q": (1.0, 2.0), "p": (0.2,)}


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("glm")


@pytest.fixture(scope="module")
def records(out):
    """A record for each data set and q, by both."""
    found, failures = execute(STUDY, STUDY.grid(GRID), RunOptions(out, device="cpu"), SweepOptions(), Console(quiet=True))
    assert not failures
    return {(record["dataset"], record["q"]): record for record in found}


def test_each_run_has_a_record_of_the_common_schema(records, out):
    assert set(records) == {(name, q) for name in GRID["dataset"] for q in GRID["q"]}
    for (name, _), record in records.items():
        assert ("accuracy" in record) == (name in ("breast-cancer", "digits"))
        assert list(record["layers"]) == ["noise"]
        assert record["penalty"] > 0
    assert (out / "report.html").is_file()


def test_the_results_are_the_estimators(records):
    config = GlmConfig(dataset="breast-cancer", q=1.0, p=0.2)
    data = study.load(config, None)
    fit = SparseoutClassifier(p=0.2, q=1.0).fit(data.X.numpy(), data.y.numpy())
    record = records["breast-cancer", 1.0]
    assert record["test_loss"] == pytest.approx(log_loss(data.y_test, fit.predict_proba(data.X_test.numpy())))
    assert record["accuracy"] == accuracy_score(data.y_test, fit.predict(data.X_test.numpy()))


def test_the_penalty_is_the_gaussian_expectation_and_nearly_the_poisson_one(records):
    for q in GRID["q"]:
        for name in ("diabetes", "synthetic-weak"):
            assert records[name, q]["noise_loss"] == pytest.approx(records[name, q]["penalty"])
        assert records["counts", q]["noise_loss"] == pytest.approx(records["counts", q]["penalty"], rel=0.05)


def test_small_features_are_spared_by_a_large_q(records):
    assert records["synthetic-weak", 2.0]["test_loss"] < records["synthetic-weak", 1.0]["test_loss"]


def test_a_run_loads_again(records, out):
    record = records["digits", 2.0]
    run = load_run(next(out.glob(f"*-{record['run']}")))
    found = run.study.evaluate(run.network, run.data)
    assert {name: record[name] for name in found} == found


def test_the_same_command_repeats_nothing(records, out, capsys):
    flags = ["--dataset", *GRID["dataset"], "--q", "1", "2", "--p", "0.2", "--seed", "0", "--out", str(out), "--device", "cpu"]
    assert main(["study", "glm", *flags, "--dry-run"]) == 0
    assert "10 complete, 0 to do" in " ".join(capsys.readouterr().out.split())


def test_without_noise_there_is_no_cost(tmp_path):
    (config,) = STUDY.grid({"dataset": ("diabetes",), "regularizer": ("none",), "method": ("stochastic",), "max_iter": (3,)})
    (record,), _ = execute(STUDY, [config], RunOptions(tmp_path, device="cpu"), SweepOptions(), Console(quiet=True))
    assert (record["penalty"], record["noise_loss"]) == (0, 0)


def test_training_and_test_data_are_apart_and_depend_on_the_seed():
    first, again, other = (study.load(GlmConfig(dataset="diabetes", seed=seed), None) for seed in (0, 0, 1))
    assert (len(first.y), len(first.y_test)) == (200, 242)
    assert torch.equal(first.X, again.X)
    assert not torch.equal(first.X, other.X)
    assert numpy.allclose(first.X.mean(0), 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"regularizer": "dropout"}, "regularizer must be 'sparseout' or 'none'"),
        ({"scale": "rms"}, "scale must be '1' in the study 'glm', got 'rms'"),
        ({"target_sparsity": 0.5}, "target_sparsity must be 0.0 in the study 'glm', got 0.5"),
        ({"p": 1.0}, r"p must be a drop probability in \[0, 1\)"),
        ({"dataset": "iris"}, "dataset must be one of 'breast-cancer'"),
        ({"max_iter": 0}, "max_iter must be an integer of at least 1, got 0"),
    ],
)
def test_settings_without_a_meaning_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        GlmConfig(**settings)
