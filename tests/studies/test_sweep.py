"""A sweep from a file or from flags, in one process or several: each run is trained once, and failures are reported."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from made import published_numbers
from rich.console import Console
from upath import UPath

from sparseout.cli.main import main
from sparseout.errors import UserError
from sparseout.runs import sweep
from sparseout.runs.executors import SweepOptions
from sparseout.runs.options import RunOptions, location
from sparseout.runs.spec import read_spec
from sparseout.runs.sweep import Throttled, execute
from sparseout.studies.autoencoder import STUDY, AutoencoderLearner
from sparseout.training.folders import StudyFolder

SWEEP = 'study = "autoencoder"\nq = [1, 2]\nseed = [0, 1]\nhidden_size = 16\nepochs = 2\n'


def written(tmp_path, text=SWEEP):
    file = tmp_path / "sweep.toml"
    file.write_text(text)
    return file


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The sweep in one process."""
    folder = tmp_path_factory.mktemp("alone")
    assert main(["sweep", str(written(folder)), "--out", str(folder / "out"), "--device", "cpu"]) == 0
    return folder / "out"


def test_a_file_describes_its_grid_and_is_kept_with_the_results(alone):
    assert (alone / "sweep.toml").read_text() == SWEEP
    assert [(record["q"], record["seed"], record["hidden_size"], record["epochs"]) for record in published_numbers(alone)] == [
        (record.q, record.seed, 16, 2) for record in sorted(STUDY.grid(GRID), key=lambda config: config.run)
    ]


GRID = {"q": (1.0, 2.0), "seed": (0, 1), "hidden_size": (16,), "epochs": (2,)}


def test_several_processes_find_the_same_numbers(alone, tmp_path):
    configs, options = STUDY.grid({**GRID, "seed": (0,)}), RunOptions(tmp_path, device="cpu")
    records, failures = execute(STUDY, configs, options, SweepOptions(jobs=2), Console(quiet=True))
    assert (len(records), failures) == (2, [])
    assert published_numbers(tmp_path) == [record for record in published_numbers(alone) if record["seed"] == 0]


def test_an_object_store_finds_the_same_numbers(alone):
    out = location("memory://bucket/test_an_object_store")
    execute(STUDY, STUDY.grid({**GRID, "seed": (0,)}), RunOptions(out, device="cpu"), SweepOptions(), Console(quiet=True))
    records, _ = execute(STUDY, STUDY.grid(GRID), RunOptions(out, device="cpu"), SweepOptions(), Console(quiet=True))
    assert len(records) == 4
    assert published_numbers(out) == published_numbers(alone)
    assert {path.name for path in out.iterdir() if path.is_file()} == {
        "study.json",
        "results.jsonl",
        "report.html",
        "sparsity.png",
    }
    assert all((out / config.folder / "weights.safetensors").is_file() for config in STUDY.grid(GRID))


def test_a_run_in_an_object_store_resumes_from_its_checkpoint(alone, monkeypatch):
    options = RunOptions(location("memory://bucket/test_a_checkpoint"), device="cpu")

    def interrupt(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(AutoencoderLearner, "results", interrupt)
        with pytest.raises(KeyboardInterrupt):
            execute(STUDY, STUDY.grid(GRID), options, SweepOptions(), Console(quiet=True))
    monkeypatch.setattr(AutoencoderLearner, "update", None)  # the first run is at its end
    _, failures = execute(STUDY, STUDY.grid({**GRID, "q": (1.0,), "seed": (0,)}), options, SweepOptions(), Console(quiet=True))
    assert failures == []


def test_paths_and_urls(tmp_path):
    assert location(f"file://{tmp_path}") == tmp_path
    assert isinstance(location("memory://bucket/a"), UPath)
    with pytest.raises(UserError, match="abacus://a cannot be used: "):
        location("abacus://a")


def test_a_failed_run_is_reported_and_the_others_are_trained(tmp_path, monkeypatch, capsys):
    update = AutoencoderLearner.update

    def fail(self, step):
        if (self.config.q, self.config.seed) == (1.0, 1):
            raise RuntimeError("the abacus\nhas no beads")
        return update(self, step)

    arguments = ["sweep", str(written(tmp_path)), "--out", str(tmp_path / "out"), "--device", "cpu"]
    with monkeypatch.context() as patch:
        patch.setattr(AutoencoderLearner, "update", fail)
        assert main(arguments) == 1
    printed = capsys.readouterr().out
    assert len(published_numbers(tmp_path / "out")) == 3
    (record,) = StudyFolder(tmp_path / "out", "autoencoder").failures()
    assert "Failed: q1-p0.5-seed1-" in printed
    assert record["reason"] == "RuntimeError: the abacus"
    assert record["reason"] in printed
    assert record["command"] in printed
    assert "has no beads" in record["traceback"]
    assert "3 done, 0 running, 1 failed" in printed.replace("3 of 4 done", "3 done")
    assert main(["results", str(tmp_path / "out")]) == 0
    assert "RuntimeError: the abacus" in capsys.readouterr().out
    assert main(record["command"].split()[1:]) == 0
    assert len(published_numbers(tmp_path / "out")) == 4
    assert StudyFolder(tmp_path / "out", "autoencoder").failures() == []


def test_a_dry_run_prints_the_plan_and_writes_nothing(alone, tmp_path, capsys):
    assert main(["sweep", str(written(tmp_path)), "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "4 runs: 0 complete, 4 to do; no run is complete, so there is no estimate of the time." in printed
    assert not (tmp_path / "out").exists()
    more = written(tmp_path, SWEEP.replace("[0, 1]", "[0, 1, 2]"))
    before = sorted(alone.rglob("*"))
    assert main(["sweep", str(more), "--out", str(alone), "--dry-run"]) == 0
    assert "6 runs: 4 complete, 2 to do, about " in capsys.readouterr().out
    assert sorted(alone.rglob("*")) == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "q = 1",
            "study must be one of 'autoencoder', 'image', 'language', 'glm', or module:OBJECT for a study of your own",
        ),
        ('study = "autoencoder"\nhiden = 3', "hiden is not a setting of this study: did you mean hidden_size?"),
        ('study = "autoencoder"\nout = "x"', "out does not belong in the file: pass --out to the command"),
        ('study = "autoencoder"\njobs = 2', "jobs does not belong in the file: pass --jobs to the command"),
        ('study = "autoencoder"\nq = "two"', "q must be a number, got 'two'"),
        ('study = "autoencoder"\nq = [1, true]', "q must be a number, got True"),
        ('study = "autoencoder"\nscale = 1', "scale must be one of '1', 'rms', 'matched', got 1"),
        ('study = "autoencoder"\nepochs = 1.5', "epochs must be an integer, got 1.5"),
        ('study = "autoencoder"\nq = -1', "q must be a finite norm of at least 0, got -1.0"),
        ('study = "autoencoder"\nq = []', "q needs at least one value"),
        ('study = "autoencoder"\npreset = "slow"', "preset must be one of 'quick', got 'slow'"),
        ("study = ", "cannot be read: Invalid value"),
    ],
)
def test_a_mistake_in_the_file_is_one_line(text, message, tmp_path, capsys):
    assert main(["sweep", str(written(tmp_path, text)), "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_file_starts_from_a_preset(tmp_path):
    file = written(tmp_path, 'study = "language"\npreset = "paper-ptb"\nlr = 20\nq = [1, 2.5]\n')
    runs = read_spec(file).configs
    assert [(run.q, run.lr, run.dataset) for run in runs] == [(1.0, 20.0, "ptb"), (2.5, 20.0, "ptb")]
    assert all(isinstance(run.lr, float) for run in runs)


@pytest.mark.parametrize(
    ("sweep_options", "message"),
    [
        (SweepOptions(jobs=0), "jobs must be an integer of at least 1, got 0"),
        (SweepOptions(jobs=2, ray="auto"), "--jobs is for one machine"),
    ],
)
def test_options_that_cannot_be_combined(sweep_options, message, tmp_path):
    with pytest.raises(UserError, match=message):
        execute(STUDY, STUDY.grid(GRID), RunOptions(tmp_path, device="cpu"), sweep_options, Console(quiet=True))


def test_an_address_without_a_cluster_is_refused_at_once(tmp_path):
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(UserError, match=f"--ray: nothing answers at '{address}'"):
        execute(STUDY, STUDY.grid(GRID), RunOptions(tmp_path, device="cpu"), SweepOptions(ray=address), Console(quiet=True))


def test_a_missing_ray_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"--ray needs ray: pip install 'sparseout\[ray\]'"):
        execute(STUDY, STUDY.grid(GRID), RunOptions(tmp_path, device="cpu"), SweepOptions(ray="auto"), Console(quiet=True))


def test_a_throttled_function_takes_its_share(monkeypatch):
    now, calls = [100.0], []
    monkeypatch.setattr(sweep.time, "perf_counter", lambda: now[0])

    def slow():
        calls.append(now[0])
        now[0] += 1

    throttled = Throttled(slow, 0.1)
    for _ in range(100):
        throttled()
        now[0] += 0.5
    assert calls == pytest.approx([100 + 11 * i for i in range(len(calls))], abs=1)
    assert 4 <= len(calls) <= 6


def start(*arguments):
    # A test run in the background ignores the signal, and so would its children.
    heed = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    command = [sys.executable, "-m", "sparseout", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **heed)


def wait_for(out, count):
    deadline = time.monotonic() + 300
    while len(list(out.glob("*/checkpoint.safetensors"))) + len(list(out.glob("*/summary.json"))) < count:
        assert time.monotonic() < deadline, "the sweep made no progress"
        time.sleep(0.02)


def children_of(process):
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False)
    return list(map(int, found.stdout.split()))


@pytest.mark.slow
def test_killed_and_stopped_in_several_processes_it_ends_with_the_same_numbers(tmp_path):
    flags = ["--q", "1", "2", "--seed", "0", "1", "2", "--hidden-size", "64", "--epochs", "60", "--device", "cpu"]
    arguments = ["study", "autoencoder", *flags, "--out", tmp_path / "out", "--jobs", "2"]
    process = start(*arguments)
    wait_for(tmp_path / "out", 2)
    children = children_of(process)
    assert len(children) >= 2
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 30
    while any(os.path.exists(f"/proc/{child}") for child in children):  # children end with their parent
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process = start(*arguments)
    wait_for(tmp_path / "out", 3)
    process.send_signal(signal.SIGINT)
    printed, error = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "of 6 runs are complete" in printed
    assert "Traceback" not in error
    process = start(*arguments)
    _, error = process.communicate(timeout=600)
    assert process.returncode == 0, error
    process = start("study", "autoencoder", *flags, "--out", tmp_path / "alone")
    process.communicate(timeout=600)
    assert published_numbers(tmp_path / "out") == published_numbers(tmp_path / "alone")


@pytest.mark.slow
def test_a_process_that_dies_fails_its_run_alone(tmp_path):
    flags = ["--q", "2", "--seed", "0", "1", "--hidden-size", "64", "--epochs", "300", "--device", "cpu"]
    process = start("study", "autoencoder", *flags, "--out", tmp_path, "--jobs", "2")
    wait_for(tmp_path, 2)
    os.kill(children_of(process)[0], signal.SIGKILL)
    printed, error = process.communicate(timeout=600)
    assert (process.returncode, error) == (1, "")
    assert printed.count(" died of signal 9, as when memory runs out\n  sparseout study autoencoder ") == 1
    assert len(published_numbers(tmp_path)) == 1
