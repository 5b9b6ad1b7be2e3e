"""Runs with a target: `q` moves until the sparsity on the test data is the target."""

import copy
import re

import numpy
import pytest
import torch
from interrupted import interrupted_after
from rich.console import Console
from torch import nn

from sparseout import Sparseout
from sparseout.cli.main import main
from sparseout.runs.executors import SweepOptions
from sparseout.runs.options import RunOptions
from sparseout.runs.sweep import execute
from sparseout.studies.autoencoder import STUDY, AutoencoderConfig, AutoencoderLearner
from sparseout.studies.image import STUDY as IMAGE
from sparseout.training.folders import read_lines
from sparseout.training.target_run import TargetRun, settled


def run(out, study=STUDY, checkpoint_minutes=10.0, **settings):
    axes = {name: (value,) for name, value in settings.items()}
    (record,), failures = execute(
        study, study.grid(axes), RunOptions(out, None, "cpu", checkpoint_minutes, False), SweepOptions(), Console(quiet=True)
    )
    assert not failures
    return record, read_lines(next(out.glob("*/metrics.jsonl")))


pytestmark = pytest.mark.usefixtures("no_report")

STEPS = 29  # of an epoch in batches of 50
LONG = {"epochs": 60, "batch_size": 50}


@pytest.fixture(scope="module")
def at_once(no_report, tmp_path_factory):
    """A run with a target of 0.7, without warmup and ramp: its record and its history."""
    return run(tmp_path_factory.mktemp("at once"), target_sparsity=0.7, **LONG)


@pytest.mark.parametrize(("measure", "target"), [("hoyer", 0.7), ("zeros", 0.7)])
def test_the_target_is_reached_on_the_test_data(measure, target, at_once, tmp_path):
    zeros = {"epochs": 60, "target_sparsity": target, "target_measure": measure}
    record, history = at_once if measure == "hoyer" else run(tmp_path, **zeros)
    control = record["control"]
    assert record[measure] == control["achieved"] == pytest.approx(target, abs=0.02)
    assert history[-1]["q"] == control["value"] != 2
    assert control["dial"] == "q"
    assert 0 < control["settled"] < 0.75
    assert not control["out_of_reach"]
    course = control["course"]
    assert len(course["value"]) == len(course["measured"]) == 65
    assert (course["value"][-1], course["measured"][-1]) == pytest.approx((control["value"], target), abs=0.02)


def test_one_q_moves_the_mean_over_the_layers(tmp_path):
    record, _ = run(tmp_path, IMAGE, epochs=12, batch_size=32, valid_images=237, target_sparsity=0.6, target_q_min=1.0)
    layers = [layer["hoyer"] for layer in record["layers"].values()]
    assert len(layers) == 3
    assert record["control"]["achieved"] == pytest.approx(sum(layers) / 3)
    assert record["control"]["layers"] == list(record["layers"])
    assert record["control"]["achieved"] == pytest.approx(0.6, abs=0.05)


SHORT = {"epochs": 2, "batch_size": 50, "hidden_size": 16, "target_sparsity": 0.6, "scale": "rms"}
SHORT |= {"target_warmup": 10, "target_ramp": 30}


@pytest.fixture(scope="module")
def uninterrupted(no_report, tmp_path_factory):
    return run(tmp_path_factory.mktemp("uninterrupted"), **SHORT)


@pytest.mark.parametrize("stop", [1, 8, 9, 30, 57])
def test_a_resumed_run_is_bit_identical(stop, uninterrupted, tmp_path):
    expected, history = copy.deepcopy(uninterrupted)
    with interrupted_after(stop, AutoencoderLearner):
        run(tmp_path, checkpoint_minutes=0.0, **SHORT)
    resumed, resumed_history = run(tmp_path, **SHORT)
    for record in (expected, resumed, *history, *resumed_history):
        record.pop("seconds")
    expected.pop("provenance"), resumed.pop("provenance")
    assert resumed == expected
    assert resumed_history == history


def test_q_is_2_during_the_warmup_and_then_the_setpoint_rises(at_once, tmp_path):
    slowly, history = run(tmp_path, target_sparsity=0.7, target_warmup=10 * STEPS, target_ramp=20 * STEPS, **LONG)
    assert [record["q"] for record in history[:10]] == [2.0] * 10
    assert history[-1]["q"] < 2
    measured = slowly["control"]["course"]["measured"]
    assert measured[10] < 0.55  # a sixth of training is over
    assert measured[20] < 0.64  # halfway up
    fast, _ = at_once
    assert fast["control"]["course"]["measured"][20] == pytest.approx(0.7, abs=0.03)
    assert slowly["control"]["achieved"] == pytest.approx(0.7, abs=0.02)
    assert (slowly["target_warmup"], slowly["target_ramp"]) == (290, 580)
    assert "target_warmup" not in fast
    assert "--target-warmup 290 --target-ramp 580" in slowly["provenance"]["command"]


def test_what_is_out_of_reach_is_said_and_recorded(tmp_path):
    with pytest.warns(UserWarning, match=r"hoyer target 0.9 in the mean is out of reach: q in \[2, 3\] reached"):
        record, _ = run(tmp_path, epochs=120, hidden_size=32, target_sparsity=0.9, target_q_min=2.0, target_q_max=3.0)
    assert record["control"]["out_of_reach"]
    assert record["control"]["settled"] == 1
    assert record["control"]["value"] == 2
    assert 0.2 < record["hoyer"] < 0.9


def test_a_run_without_a_target_has_no_trace_of_one(tmp_path):
    record, history = run(tmp_path, epochs=1, hidden_size=8)
    assert "control" not in record
    assert "q" not in history[0]


def test_settled_is_when_the_last_miss_was():
    for measured, fraction in (
        ([0.5] * 4, 0),
        ([0.4, 0.5, 0.47, 0.49], 0.75),
        ([0.5, 0.5, 0.5, 0.6], 1),
        ([numpy.nan, 0.51], 0.5),
        ([0.5, 0.5, 0.5, numpy.nan], 1),
        ([numpy.nan] * 3, 1),
        ([], 1),
    ):
        assert settled(measured, 0.5) == fraction


def test_a_network_that_becomes_nan_has_settled_nowhere_and_reached_nothing():
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), Sparseout())
    control = TargetRun(AutoencoderConfig(target_sparsity=0.5), network, (), network)
    for inputs in (torch.randn(16, 4), torch.full((16, 4), numpy.nan)):
        control._measured.clear()
        for _ in range(8):
            network(inputs)
            control.step()
    layers = {"2": {"hoyer": None}}
    found = control.results({"layers": layers})["control"]
    assert (found["achieved"], found["settled"], found["out_of_reach"]) == (None, 1.0, False)
    assert numpy.isnan(found["course"]["measured"]).all()
    assert control.results({"layers": {}})["control"]["achieved"] is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--target-sparsity", "1.2"], r"target_sparsity must be a sparsity in \(0, 1\), or 0 for none, got 1.2"),
        (["--target-sparsity", "0.5", "--target-measure", "gini"], r"target_measure must be one of 'hoyer', 'zeros', got 'gini'"),
        (["--target-sparsity", "0.5", "--target-q-max", "-1"], r"target_q_max must be a finite norm of at least 0, got -1"),
        (["--target-sparsity", "0.5", "--target-q-min", "inf"], r"target_q_min must be a finite norm of at least 0, got inf"),
        (
            ["--target-sparsity", "0.5", "--target-q-min", "3", "--target-q-max", "2"],
            r"target_q_min must be below target_q_max, got 3 and 2",
        ),
        (["--scale", "matched", "--gradient", "exact"], r"gradient must be 'detached' with scale='matched', got 'exact'"),
        (["--scale", "rms", "--gradient", "exact"], r"gradient must be 'detached' with scale='rms', got 'exact'"),
        (["--scale", "2"], r"scale must be one of '1', 'rms', 'matched', got '2'"),
        (["--target-sparsity", "0.5", "--gradient", "exact"], r"gradient must be 'detached' with target_sparsity, got 'exact'"),
    ],
)
def test_a_users_mistake_is_one_line(flags, message, tmp_path, capsys):
    assert main(["study", "autoencoder", "--out", str(tmp_path / "out"), *flags]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()
