"""The best epoch: which one it is, whose weights a run ends with, and a killed run that resumes to the same weights."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from interrupted import interrupted_after
from made import numbers
from rich.console import Console
from safetensors.torch import load_file
from torch import nn

from sparseout.cli.main import main
from sparseout.runs.executors import SweepOptions
from sparseout.runs.options import RunOptions
from sparseout.runs.sweep import execute
from sparseout.studies.registry import STUDIES
from sparseout.training.best_epoch import BestEpoch
from sparseout.training.folders import read_lines

pytestmark = pytest.mark.usefixtures("no_report", "one_thread")

LOSSES = st.lists(st.one_of(st.floats(0, 10), st.just(math.nan), st.just(math.inf)), min_size=1, max_size=12)


def trained(keep, losses, resumed=()):
    """Add the epochs of a network whose bias is their number. At the epochs `resumed`, go on from a saved state."""
    network, best = nn.Linear(1, 1), BestEpoch(keep)
    for epoch, loss in enumerate(losses, 1):
        nn.init.constant_(network.bias, epoch)
        best.add({"valid_loss": loss, "valid_accuracy": epoch / 100}, network)
        if epoch in resumed:
            state = best.state_dict()
            best = BestEpoch(keep)
            best.load_state_dict(state)
    return network, best


@given(LOSSES, st.sampled_from(["last", "best"]), st.sets(st.integers(1, 12)))
def test_the_kept_epoch_is_the_one_that_a_plain_search_finds(losses, keep, resumed):
    known = [math.inf if math.isnan(loss) else loss for loss in losses]
    lowest = known.index(min(known)) + 1
    kept = lowest if keep == "best" else len(known)
    network, best = trained(keep, losses, resumed)
    best.restore(network)
    assert network.bias.item() == kept
    assert best.results() == {"valid_loss": known[kept - 1], "valid_accuracy": kept / 100, "best_epoch": lowest}


def test_no_epoch_has_no_results():
    network = nn.Linear(1, 1)
    before = network.bias.item()
    best = BestEpoch("best")
    best.restore(network)
    assert (best.results(), network.bias.item()) == ({}, before)


def test_the_last_epoch_costs_no_memory():
    assert trained("last", [3.0, 1.0, 2.0])[1].state_dict()["weights"] == {}


IMAGES = {"valid_images": 100, "epochs": 5, "batch_size": 64}
# Learning rates, and a weight decay, that make the validation loss rise before the end.
RUNS = {
    "autoencoder": {**IMAGES, "hidden_size": 16, "lr": 0.3},
    "image": {**IMAGES, "train_images": 256, "depth": 10, "lr": 0.3, "weight_decay": 0.3},
    "cnn": {**IMAGES, "train_images": 256, "network": "cnn", "hidden_size": 32, "augmentation": "none", "lr": 0.2},
}


def config_of(name, **settings):
    study = STUDIES["image" if name == "cnn" else name]
    return study, study.grid({key: (value,) for key, value in {**RUNS[name], "q": 1.5, **settings}.items()})[0]


def attempt(study, config, out):
    return execute(study, [config], RunOptions(out, None, "cpu", checkpoint_minutes=0.0), SweepOptions(), Console(quiet=True))


def stop(study, config, out, owner, calls):
    """Train with a checkpoint after each step, and interrupt the run before call number `calls` of `update`."""
    with interrupted_after(calls, owner):
        attempt(study, config, out)


@pytest.mark.parametrize("name", RUNS)
def test_a_killed_run_that_keeps_the_best_epoch_resumes_to_the_same_bits(name, tmp_path):
    study, config = config_of(name, keep="best")
    (whole,), _ = attempt(study, config, tmp_path / "whole")
    steps = {"autoencoder": 21}.get(name, 4)  # per epoch
    for calls in (steps, steps // 2, 2 * steps, 1):
        stop(study, config, tmp_path / "killed", study.learner, calls)
    (resumed,), _ = attempt(study, config, tmp_path / "killed")
    assert numbers(resumed) == numbers(whole)
    weights = [load_file(tmp_path / run / config.folder / "weights.safetensors") for run in ("whole", "killed")]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


@pytest.mark.parametrize("name", RUNS)
def test_the_record_and_the_weights_are_those_of_the_kept_epoch(name, tmp_path):
    found = {}
    for keep in ("last", "best"):
        study, config = config_of(name, keep=keep)
        (record,), _ = attempt(study, config, tmp_path / keep)
        epochs = read_lines(tmp_path / keep / config.folder / "metrics.jsonl")
        losses = [epoch["valid_loss"] for epoch in epochs]
        assert record["best_epoch"] == losses.index(min(losses)) + 1 < 5
        kept = epochs[-1 if keep == "last" else record["best_epoch"] - 1]
        assert record["valid_loss"] == kept["valid_loss"]
        assert record.get("valid_accuracy") == kept.get("valid_accuracy")
        assert not {"test_loss", "accuracy"} & set(kept)
        found[keep] = record, epochs
        assert main(["evaluate", "--device", "cpu", str(tmp_path / keep / config.folder)]) == 0
    (last, epochs), (best, same) = found["last"], found["best"]
    assert [epoch["valid_loss"] for epoch in epochs] == [epoch["valid_loss"] for epoch in same]
    assert last["test_loss"] != best["test_loss"]


def test_an_evaluation_of_the_saved_weights_repeats_the_record(tmp_path, capsys):
    study, config = config_of("cnn", keep="best")
    (record,), _ = attempt(study, config, tmp_path)
    assert main(["evaluate", "--json", "--device", "cpu", str(tmp_path / config.folder)]) == 0
    again = json.loads(capsys.readouterr().out)
    names = ("test_loss", "accuracy", "hoyer")
    assert [again[name] for name in names] == [record[name] for name in names]
