"""The engine: a run that is interrupted anywhere resumes to the same numbers, and several processes train as one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from made import numbers
from rich.console import Console

from sparseout.cli.main import main
from sparseout.runs.executors import SweepOptions
from sparseout.runs.options import RunOptions
from sparseout.runs.sweep import execute
from sparseout.studies.autoencoder import STUDY, AutoencoderConfig, AutoencoderLearner
from sparseout.training import engine
from sparseout.training.folders import RunFolder, read_lines

pytestmark = pytest.mark.usefixtures("no_report")

SMALL = {"q": (1.5,), "epochs": (3,), "hidden_size": (16,), "batch_size": (300,)}  # 5 steps an epoch


def attempt(out, checkpoint_minutes=10.0, tensorboard=False, **axes):
    place = RunOptions(out, None, "cpu", checkpoint_minutes, tensorboard)
    return execute(STUDY, STUDY.grid({**SMALL, **axes}), place, SweepOptions(), Console(quiet=True))


def study(out, *arguments, **axes):
    records, failures = attempt(out, *arguments, **axes)
    assert not failures
    return records


def histories(out):
    return [[numbers(line) for line in read_lines(path)] for path in sorted(out.glob("*/metrics.jsonl"))]


@pytest.fixture(scope="module")
def uninterrupted(no_report, tmp_path_factory):
    out = tmp_path_factory.mktemp("uninterrupted")
    return list(map(numbers, study(out))), histories(out)


CALLS = [
    (AutoencoderLearner, "update", 15),
    (AutoencoderLearner, "evaluate", 3),
    (AutoencoderLearner, "results", 1),
    (RunFolder, "add_epoch", 3),
    (RunFolder, "truncate_history", 1),
    (RunFolder, "write_summary", 1),
    (engine, "save_checkpoint", 18),
]


@settings(max_examples=25, phases=[Phase.explicit, Phase.generate])  # an example takes a second
@given(data=st.data())
def test_interrupted_anywhere_it_ends_with_the_same_numbers(data, uninterrupted, tmp_path_factory):
    out = tmp_path_factory.mktemp("interrupted")
    every_step = 0.0
    for _ in range(data.draw(st.integers(1, 3), "interruptions")):
        owner, name, count = data.draw(st.sampled_from(CALLS), "where")
        left = data.draw(st.integers(0, count - 1), "calls before")
        after = data.draw(st.booleans(), "after the call")
        original = getattr(owner, name)

        def interrupt(*arguments, original=original, after=after):
            nonlocal left
            left -= 1
            if left < 0 and not after:
                raise KeyboardInterrupt
            result = original(*arguments)
            if left < 0:
                raise KeyboardInterrupt
            return result

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", lambda _: None)  # the machine itself goes on
            patch.setattr(owner, name, interrupt)
            try:
                study(out, every_step)
            except KeyboardInterrupt:
                continue
            break
    records = study(out, every_step)
    assert (list(map(numbers, records)), histories(out)) == uninterrupted
    assert not list(out.glob("*/checkpoint.safetensors"))


def test_a_run_has_threads_and_seeds_of_its_own_and_leaves_the_process_as_it_was(tmp_path, monkeypatch):
    seen = []

    def update(self, step):
        seen.append((torch.get_num_threads(), torch.initial_seed(), self.network.encoder[0].weight.detach().clone()))
        return original(self, step)

    original = AutoencoderLearner.update
    monkeypatch.setattr(AutoencoderLearner, "update", update)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    before = torch.get_rng_state()
    try:
        study(tmp_path, q=(1.0, 2.0), seed=(5,), epochs=(1,), threads=(1,))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.get_rng_state(), before)
    config = AutoencoderConfig(seed=5)
    torch.manual_seed(config.seed_of("initialisation"))
    expected = torch.nn.Linear(64, 16).weight
    assert len(seen) == 10
    for i, (run_threads, seed, weights) in enumerate(seen):
        assert (run_threads, seed) == (1, config.seed_of("noise", 1, i % 5, 0))
        assert torch.equal(weights, expected) == (i % 5 == 0)


def interrupt_at_the_end(out, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(AutoencoderLearner, "results", interrupt)
        with pytest.raises(KeyboardInterrupt):
            study(out)


def test_a_checkpoint_that_was_changed_fails_its_run_and_stays(tmp_path, monkeypatch):
    interrupt_at_the_end(tmp_path, monkeypatch)
    (path,) = tmp_path.glob("*/checkpoint.safetensors")
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    records, (failure,) = attempt(tmp_path)
    assert records == []
    assert re.search(r"checkpoint.safetensors cannot be resumed from: .*checksum", failure.reason)
    assert path.read_bytes() == content


def test_a_checkpoint_that_does_not_fit_the_network_is_refused(tmp_path, monkeypatch):
    interrupt_at_the_end(tmp_path, monkeypatch)
    (path,) = tmp_path.glob("*/checkpoint.safetensors")
    engine.save_checkpoint(path, path.parent.name.rsplit("-", 1)[1], {"at": {"epoch": 2}, "learner": {}})
    _, (failure,) = attempt(tmp_path)
    assert "cannot be resumed from: delete it to start that run again" in failure.reason


def test_event_files_on_request(tmp_path):
    study(tmp_path / "with", tensorboard=True)
    study(tmp_path / "without")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert not list(tmp_path.glob("without/*/tensorboard"))
    (folder,) = tmp_path.glob("with/*/tensorboard")
    events = EventAccumulator(str(folder)).Reload()
    (lines,) = (read_lines(path) for path in tmp_path.glob("with/*/metrics.jsonl"))
    for name in ("train_loss", "test_loss", "hoyer"):
        assert [event.value for event in events.Scalars(name)] == pytest.approx([line[name] for line in lines])
        assert [event.step for event in events.Scalars(name)] == [1, 2, 3]


@pytest.fixture(scope="module")
def launched(tmp_path_factory):
    """The output folder and the records, by noise, of the same runs in one process and in two."""
    flags = [
        "autoencoder",
        "--regularizer",
        "none",
        "sparseout",
        "--seed",
        "0",
        "--q",
        "2",
        "--epochs",
        "3",
        "--batch-size",
        "300",
    ]
    one, two = ([*flags, "--device", "cpu", "--out", str(tmp_path_factory.mktemp("launched"))] for _ in range(2))
    assert main(["study", *one]) == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "sparseout"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "study", *two], env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Report: ") == 1
    outs = Path(one[-1]), Path(two[-1])
    return [(out, {record["regularizer"]: record for record in read_lines(out / "results.jsonl")}) for out in outs]


def test_two_processes_train_as_one_does(launched):
    (out_1, records_1), (out_2, records_2) = launched
    one, two = records_1["none"], records_2["none"]
    assert (one["provenance"]["processes"], two["provenance"]["processes"]) == (1, 2)
    assert one["run"] == two["run"]
    for name in ("test_loss", "hoyer", "rms"):
        assert two[name] == pytest.approx(one[name], rel=1e-4)
    losses_1, losses_2 = (
        [line["train_loss"] for line in read_lines(next(out.glob("none-*")) / "metrics.jsonl")] for out in (out_1, out_2)
    )
    assert losses_2 == pytest.approx(losses_1, rel=1e-4)


def test_two_processes_draw_noise_of_their_own(launched):
    one, two = (records["sparseout"] for _, records in launched)
    assert two["test_loss"] != one["test_loss"]
    assert two["test_loss"] == pytest.approx(one["test_loss"], rel=0.05)


def test_bfloat16_trains_to_about_the_same(tmp_path):
    full, half = study(tmp_path, precision=("fp32", "bf16"), regularizer=("none",), epochs=(10,))
    assert {full["precision"], half["precision"]} == {"fp32", "bf16"}
    assert full["run"] != half["run"]
    assert 0 < abs(full["test_loss"] - half["test_loss"]) < 0.01
