"""A run that resumes with other code, another torch or on another machine warns, and its record names each of them."""

import json
import math

import pytest
import torch
from rich.console import Console

from sparseout.records import provenance
from sparseout.runs.executors import SweepOptions
from sparseout.runs.options import RunOptions
from sparseout.runs.run import run_one
from sparseout.runs.sweep import execute
from sparseout.studies.autoencoder import STUDY, AutoencoderLearner
from sparseout.training import engine
from sparseout.training.checkpoint import load_checkpoint, save_checkpoint

AXES = {"q": (1.5,), "epochs": (3,), "hidden_size": (4,), "batch_size": (300,)}
RUN = STUDY.grid(AXES)[0]


def attempt(out):
    return execute(STUDY, [RUN], RunOptions(out, None, "cpu", checkpoint_minutes=0.0), SweepOptions(), Console(quiet=True))


def stop(out, steps=15, owner=AutoencoderLearner, name="update"):
    """Train with a checkpoint after each step, and interrupt the call of `name` after `steps` calls."""
    original, left = getattr(owner, name), iter(range(steps))

    def interrupt(*arguments):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return original(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, interrupt)
        with pytest.raises(KeyboardInterrupt):
            attempt(out)
    return out / RUN.folder / "checkpoint.safetensors"


def finished(out):
    (record,), failures = attempt(out)
    assert failures == []
    return record


CHANGES = {
    "sparseout": (provenance.sparseout, "__version__", "9.9"),
    "commit": (provenance, "_commit", lambda: "abc"),
    "code": (provenance, "_code", lambda: "abc"),
    "torch": (torch, "__version__", torch.torch_version.TorchVersion("2.99.0")),
    "cpu": (provenance, "_cpu", lambda: "another cpu"),
    "python": (provenance.platform, "python_version", lambda: "3.99"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_printed_in_one_line_and_recorded(name, tmp_path, monkeypatch, capsys):
    before = provenance.origin(torch.device("cpu"))
    stop(tmp_path, 4)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(*CHANGES[name])
    after = provenance.origin(torch.device("cpu"))
    stop(tmp_path, 4)
    err = capsys.readouterr().err
    assert err.startswith(f"sparseout: warning: {RUN.folder} resumes with {name} {after[name]} after {before[name]}: ")
    assert err.count("\n") == 1
    found = finished(tmp_path)["provenance"]
    assert capsys.readouterr().err == "", "the checkpoint has the change, so it is not printed again"
    assert found["trained_by"] == [before, after]
    assert found[name] == after[name]


def test_a_run_of_one_version_names_it_once_and_prints_nothing(tmp_path, capsys):
    stop(tmp_path, 4)
    stop(tmp_path, 4)
    found = finished(tmp_path)["provenance"]
    assert found["trained_by"] == [provenance.origin(torch.device("cpu"))]
    assert capsys.readouterr().err == ""


def rewrite(path, **at):
    state = load_checkpoint(path, RUN.run)
    save_checkpoint(path, RUN.run, {**state, "at": {name: value for name, value in (state["at"] | at).items() if value != "-"}})


def test_a_checkpoint_without_an_origin_is_resumed_with_a_warning(tmp_path, capsys):
    rewrite(stop(tmp_path, 4), trained_by="-")
    found = finished(tmp_path)["provenance"]
    assert [origin["sparseout"] for origin in found["trained_by"]] == [None, provenance.sparseout.__version__]
    assert "after None" in capsys.readouterr().err


def seconds(out):
    record = json.loads((out / RUN.folder / "summary.json").read_text())
    lines = (out / RUN.folder / "metrics.jsonl").read_text().splitlines()
    return [record["seconds"], *(json.loads(line)["seconds"] for line in lines)]


@pytest.mark.parametrize("found", [-1e6, math.nan, math.inf, -math.inf])
def test_impossible_times_in_a_checkpoint_do_not_count(found, tmp_path):
    rewrite(stop(tmp_path, 4), seconds=found)
    finished(tmp_path)
    assert all(0 <= value < 1000 for value in seconds(tmp_path))


def test_a_clock_that_steps_back_takes_no_time_away(tmp_path, monkeypatch):
    now = iter(range(10**6, 0, -7))
    monkeypatch.setattr(engine.time, "perf_counter", lambda: float(next(now)))
    assert finished(tmp_path)["seconds"] == 0
    assert set(seconds(tmp_path)) == {0}


POSITIONS = [
    *({name: value} for name in ("epoch", "step", "items") for value in (None, [], {}, "x", -1, 1e308, True, math.nan)),
    *({name: value} for name in ("loss", "seconds") for value in (None, [], {}, "x", True)),
    *({"trained_by": value} for value in (None, {}, "x", 3, [3], [{"torch": []}])),
]


@pytest.mark.parametrize("at", POSITIONS, ids=str)
def test_a_malformed_position_fails_its_run_before_it_trains(at, tmp_path):
    path = tmp_path / RUN.folder / "checkpoint.safetensors"
    path.parent.mkdir()
    position = {"epoch": 1, "step": 0, "loss": 0.0, "items": 0, "seconds": 0.0, "trained_by": []} | at
    save_checkpoint(path, RUN.run, {"at": position, "learner": {}})
    failure = run_one(STUDY, RUN, RunOptions(tmp_path, None, "cpu"))
    assert failure.reason.startswith(f"{path} cannot be resumed from: delete it to start that run again (at: ")


def metrics(out, *lines):
    (out / RUN.folder / "metrics.jsonl").write_bytes(b"".join(lines))


def test_a_partly_written_epoch_is_written_again(tmp_path):
    """Killed after it wrote the epoch, which its checkpoint does not have yet."""
    stop(tmp_path, 0, AutoencoderLearner, "evaluate")
    metrics(tmp_path, b'{"epoch": 1, "train_lo')
    finished(tmp_path)
    lines = (tmp_path / RUN.folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3]


@pytest.mark.parametrize("cut", [0, 30, -20], ids=["missing", "one half", "the last half"])
def test_epochs_that_are_lost_fail_their_run_by_name(cut, tmp_path):
    stop(tmp_path, 1, AutoencoderLearner, "evaluate")
    path = tmp_path / RUN.folder / "metrics.jsonl"
    metrics(tmp_path, path.read_bytes()[:cut])
    (failure,) = attempt(tmp_path)[1]
    assert failure.reason.startswith(str(path))
