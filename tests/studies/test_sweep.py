"""A sweep from a file or from flags, in one process or several: what is asked is run once, and what fails is told."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pandas
import pytest
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

QUESTION = 'study = "autoencoder"\nq = [1, 2]\nseed = [0, 1]\nhidden = 16\nepochs = 2\n'


def numbers(out):
    records = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if key not in ("seconds", "provenance")} for record in records]


def asked(tmp_path, text=QUESTION):
    file = tmp_path / "question.toml"
    file.write_text(text)
    return file


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The sweep in one process."""
    folder = tmp_path_factory.mktemp("alone")
    assert main(["sweep", str(asked(folder)), "--out", str(folder / "out"), "--device", "cpu"]) == 0
    return folder / "out"


def test_a_file_asks_for_its_grid_and_is_kept_with_the_results(alone):
    assert (alone / "sweep.toml").read_text() == QUESTION
    assert [(record["q"], record["seed"], record["hidden"], record["epochs"]) for record in numbers(alone)] == [
        (record.q, record.seed, 16, 2) for record in sorted(STUDY.grid(GRID), key=lambda config: config.run)
    ]


GRID = {"q": (1.0, 2.0), "seed": (0, 1), "hidden_size": (16,), "epochs": (2,)}


def test_several_processes_find_the_same_numbers(alone, tmp_path):
    records, failures = execute(STUDY.grid(GRID), RunOptions(tmp_path, device="cpu"), SweepOptions(jobs=2), Console(quiet=True))
    assert (len(records), failures) == (4, [])
    assert numbers(tmp_path) == numbers(alone)


def test_an_object_store_finds_the_same_numbers(alone):
    out = location("memory://bucket/test_an_object_store")
    execute(STUDY.grid({**GRID, "seed": (0,)}), RunOptions(out, device="cpu"), SweepOptions(), Console(quiet=True))
    records, _ = execute(STUDY.grid(GRID), RunOptions(out, device="cpu"), SweepOptions(), Console(quiet=True))
    assert len(records) == 4
    assert numbers(out) == numbers(alone)
    assert {path.name for path in out.iterdir() if path.is_file()} == {
        "study.json",
        "results.jsonl",
        "report.html",
        "sparsity.png",
    }
    assert all((out / config.folder / "weights.safetensors").is_file() for config in STUDY.grid(GRID))


def test_a_run_in_an_object_store_goes_on_from_its_checkpoint(alone, monkeypatch):
    place = RunOptions(location("memory://bucket/test_a_checkpoint"), device="cpu")

    def interrupt(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(AutoencoderLearner, "results", interrupt)
        with pytest.raises(KeyboardInterrupt):
            execute(STUDY.grid(GRID), place, SweepOptions(), Console(quiet=True))
    monkeypatch.setattr(AutoencoderLearner, "update", None)  # the first run is at its end
    _, failures = execute(STUDY.grid({**GRID, "q": (1.0,), "seed": (0,)}), place, SweepOptions(), Console(quiet=True))
    assert failures == []


def test_paths_and_urls(tmp_path):
    assert location(f"file://{tmp_path}") == tmp_path
    assert isinstance(location("memory://bucket/a"), UPath)
    with pytest.raises(UserError, match="abacus://a cannot be used: "):
        location("abacus://a")


def test_a_failed_run_is_told_and_the_others_are_run(tmp_path, monkeypatch, capsys):
    update = AutoencoderLearner.update

    def fail(self, step):
        if (self.config.q, self.config.seed) == (1.0, 1):
            raise RuntimeError("the abacus\nhas no beads")
        return update(self, step)

    arguments = ["sweep", str(asked(tmp_path)), "--out", str(tmp_path / "out"), "--device", "cpu"]
    with monkeypatch.context() as patch:
        patch.setattr(AutoencoderLearner, "update", fail)
        assert main(arguments) == 1
    printed = capsys.readouterr().out
    assert len(numbers(tmp_path / "out")) == 3
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
    assert len(numbers(tmp_path / "out")) == 4
    assert StudyFolder(tmp_path / "out", "autoencoder").failures() == []


def test_a_dry_run_says_what_would_be_run_and_writes_nothing(alone, tmp_path, capsys):
    assert main(["sweep", str(asked(tmp_path)), "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "4 runs: 0 complete, 4 to do; none is complete in the folder, so there is no estimate of the time." in printed
    assert not (tmp_path / "out").exists()
    more = asked(tmp_path, QUESTION.replace("[0, 1]", "[0, 1, 2]"))
    before = sorted(alone.rglob("*"))
    assert main(["sweep", str(more), "--out", str(alone), "--dry-run"]) == 0
    assert "6 runs: 4 complete, 2 to do, about " in capsys.readouterr().out
    assert sorted(alone.rglob("*")) == before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q = 1", "study must be one of 'autoencoder', 'image', 'language', got None"),
        ('study = "autoencoder"\nhiden = 3', "hiden is no setting of this study: did you mean hidden?"),
        ('study = "autoencoder"\nout = "x"', "out is no part of the question: give --out to the command"),
        ('study = "autoencoder"\njobs = 2', "jobs is no part of the question: give --jobs to the command"),
        ('study = "autoencoder"\nq = "two"', "q must be a number, got 'two'"),
        ('study = "autoencoder"\nq = [1, true]', "q must be a number, got True"),
        ('study = "autoencoder"\nepochs = 1.5', "epochs must be an integer, got 1.5"),
        ('study = "autoencoder"\nq = -1', "q must be a finite norm of at least 0, got -1.0"),
        ('study = "autoencoder"\nq = []', "q needs at least one value"),
        ('study = "autoencoder"\npreset = "slow"', "preset must be one of 'quick', got 'slow'"),
        ("study = ", "cannot be read: Invalid value"),
    ],
)
def test_a_mistake_in_the_file_is_one_line(text, message, tmp_path, capsys):
    assert main(["sweep", str(asked(tmp_path, text)), "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_file_and_the_flags_ask_for_the_same_runs(tmp_path):
    file = asked(tmp_path, 'study = "language"\npreset = "paper-ptb"\nlr = 20\nq = [1, 2.5]\n')
    runs = read_spec(file).configs
    assert [(run.q, run.lr, run.dataset) for run in runs] == [(1.0, 20.0, "ptb"), (2.5, 20.0, "ptb")]
    assert all(isinstance(run.lr, float) for run in runs)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (SweepOptions(jobs=0), "jobs must be an integer of at least 1, got 0"),
        (SweepOptions(jobs=2, ray="auto"), "--jobs is for one machine"),
    ],
)
def test_ways_to_execute_that_there_are_not(how, message, tmp_path):
    with pytest.raises(UserError, match=message):
        execute(STUDY.grid(GRID), RunOptions(tmp_path, device="cpu"), how, Console(quiet=True))


def test_an_address_at_which_nothing_listens_is_told_at_once(tmp_path):
    pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(UserError, match=f"--ray: nothing answers at '{address}'"):
        execute(STUDY.grid(GRID), RunOptions(tmp_path, device="cpu"), SweepOptions(ray=address), Console(quiet=True))


def test_ray_that_is_not_installed_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"--ray needs ray: pip install 'sparseout\[ray\]'"):
        execute(STUDY.grid(GRID), RunOptions(tmp_path, device="cpu"), SweepOptions(ray="auto"), Console(quiet=True))


def test_what_is_seldom_called_takes_its_share(monkeypatch):
    now, calls = [100.0], []
    monkeypatch.setattr(sweep.time, "perf_counter", lambda: now[0])

    def slow():
        calls.append(now[0])
        now[0] += 1

    seldom = Throttled(slow, 0.1)
    for _ in range(100):
        seldom()
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
    while any(os.path.exists(f"/proc/{child}") for child in children):  # they end with their parent
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
    assert numbers(tmp_path / "out") == numbers(tmp_path / "alone")


@pytest.mark.slow
def test_a_process_that_dies_fails_its_run_alone(tmp_path):
    code = f"""
import os, signal, sys, threading, time
from pathlib import Path
from rich.console import Console
from sparseout.runs import executors
from sparseout.studies.autoencoder import STUDY
from sparseout.runs.options import RunOptions
from sparseout.runs.sweep import execute

def shoot(processes):
    while not list(Path({str(tmp_path)!r}).glob("*seed0*/checkpoint.safetensors")):
        time.sleep(0.05)
    os.kill(min(processes._pids), signal.SIGKILL)

original = executors.Processes.__init__
def hooked(self, place):
    original(self, place)
    threading.Thread(target=shoot, args=(self,), daemon=True).start()
executors.Processes.__init__ = hooked
if __name__ == "__main__":
    configs = STUDY.grid({{"seed": (0, 1), "epochs": (60,), "hidden_size": (64,)}})
    place = RunOptions(Path({str(tmp_path)!r}), device="cpu")
    records, failures = execute(configs, place, executors.SweepOptions(jobs=2), Console(quiet=True))
    print(len(records), [failure.reason for failure in failures])
"""
    script = tmp_path.parent / "shoot.py"
    script.write_text(code)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=600, check=False)
    assert "1 ['its process (" in done.stdout, done.stderr


def test_results_filter_and_export(alone, tmp_path, capsys):
    assert main(["results", str(alone), "--where", "q=1", "seed=0,1", "--runs"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2 + 2
    files = tmp_path / "a.csv", tmp_path / "a.parquet"
    assert main(["results", str(alone), "--csv", str(files[0]), "--parquet", str(files[1])]) == 0
    for rows in (pandas.read_csv(files[0], dtype={"run": str}), pandas.read_parquet(files[1])):
        assert sorted(rows["run"]) == sorted(record["run"] for record in numbers(alone))
        assert rows["layers.noise.hoyer"].notna().all()


@pytest.mark.parametrize(
    ("condition", "message"),
    [("sed=1", "--where must name a setting, got 'sed': did you mean seed?"), ("seed", "--where must be NAME=VALUE, got 'seed'")],
)
def test_a_condition_that_is_none(alone, condition, message, capsys):
    assert main(["results", str(alone), "--where", condition]) == 2
    assert capsys.readouterr().err == f"sparseout: {message}\n"


def test_results_of_a_folder_without_any(tmp_path, capsys):
    assert main(["results", str(tmp_path)]) == 2
    assert "must be the folder of a study, with its study.json or its results.jsonl" in capsys.readouterr().err


def test_other_tools_read_the_results_in_one_line(alone):
    duckdb, polars = pytest.importorskip("duckdb"), pytest.importorskip("polars")
    file = str(alone / "results.jsonl")
    runs = [record["run"] for record in numbers(alone)]
    assert list(pandas.read_json(file, lines=True, dtype={"run": str})["run"]) == runs
    assert polars.read_ndjson(file)["run"].to_list() == runs
    assert [run for (run,) in duckdb.sql(f"SELECT run FROM '{file}'").fetchall()] == runs
