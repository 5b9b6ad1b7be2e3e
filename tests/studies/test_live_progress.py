"""The progress of runs in training: what the engine reports, what a child sends, and what a terminal shows."""

import json
import math
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made import published_numbers
from rich.console import Console

from sparseout.runs import executors
from sparseout.runs.executors import SweepOptions
from sparseout.runs.options import RunOptions
from sparseout.runs.sweep import execute
from sparseout.studies.autoencoder import STUDY
from sparseout.training import run_progress
from sparseout.training.run_progress import RECENT, Reporter, RunProgress

PROGRESS = RunProgress(epoch=2, epochs=4, step=3, steps=6, rate=10.0, loss=0.5, measure="hoyer", sparsity=0.25)


def learner(target=None, processes=1):
    config = types.SimpleNamespace(epochs=4, target_measure="zeros")
    return types.SimpleNamespace(config=config, target_run=target, accelerator=types.SimpleNamespace(num_processes=processes))


@pytest.fixture
def now(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(run_progress.time, "monotonic", lambda: now[0])
    return now


def test_the_engine_reports_twice_a_second_at_most(now):
    found = []
    reporter = Reporter(learner(), found.append)
    for step in range(1, 101):
        now[0] = step / 10
        if step == 50:
            reporter.evaluated({"hoyer": 0.25, "test_loss": 3.0})
        reporter.step(2, step, 100, torch.tensor(8.0 * step), 8)
    assert [report.step for report in found] == [*range(5, 101, 5)]
    assert {report.rate for report in found} == {80.0}
    assert [found[0].loss, found[-1].loss] == [3.0, 90.5]  # the means of 1 to 5, and of 81 to 100
    assert [report.sparsity for report in found] == [None] * 9 + [0.25] * 11
    assert found[-1].epochs_done == 2.0


@given(losses=st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=2 * RECENT), processes=st.integers(1, 3))
def test_the_loss_is_the_mean_over_the_recent_steps(losses, processes):
    found = []
    reporter = Reporter(learner(processes=processes), found.append)
    reporter._reported = math.inf
    for loss in losses:
        reporter.step(1, 1, 1, torch.tensor(loss, dtype=torch.float64), 4 * processes)
    reporter._reported = -math.inf
    reporter.step(1, 1, 1, torch.tensor(1.0, dtype=torch.float64), 4 * processes)
    recent = [*losses, 1.0][-RECENT:]
    assert found[0].loss == pytest.approx(sum(recent) / len(recent) / 4, abs=1e-9)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_is_not_a_number(value, now):
    found = []
    reporter = Reporter(learner(types.SimpleNamespace(measured=value)), found.append)
    now[0] = 1.0
    reporter.step(1, 1, 1, torch.tensor(value), 1)
    assert (found[0].loss, found[0].measure, found[0].sparsity) == (None, "zeros", None)


def test_reports_change_no_number(tmp_path, monkeypatch):
    configs = STUDY.grid({"q": (1.5,), "epochs": (2,), "hidden_size": (16,), "target_sparsity": (0.5,)})
    kept = []
    for name, interval in (("often", -1.0), ("never", math.inf)):
        monkeypatch.setattr(run_progress, "INTERVAL", interval)
        monkeypatch.setattr("sparseout.runs.sweep.RunBars.update", lambda _, config, progress: kept.append(progress))
        execute(STUDY, configs, RunOptions(tmp_path / name, device="cpu"), SweepOptions(), Console(quiet=True))
        assert len(kept) == 24
    assert [(each.epoch, each.step, each.steps) for each in kept] == [(e, s, 12) for e in (1, 2) for s in range(1, 13)]
    assert published_numbers(tmp_path / "often") == published_numbers(tmp_path / "never")
    files = [sorted(path.relative_to(tmp_path / name) for path in (tmp_path / name).rglob("*")) for name in ("often", "never")]
    assert files[0] == files[1]


CHILD_CODE = """
import os, sys
from sparseout.runs.executors import _send
from sparseout.training.run_progress import RunProgress
for step in range(1, 4):
    print('{"epoch": 1}', "x" * 10_000, end="", flush=True)
    os.write(1, bytes(range(256)))
    _send(RunProgress(2, 4, step, 6, 10.0, 0.5, "hoyer", None))
    if step < 3:
        sys.stdin.read(1)
os.write(1, b"x" * 1_000_000)
"""


def test_a_childs_progress_passes_between_what_its_study_prints(tmp_path, monkeypatch):
    code = f"import os; os.environ.update(PYTHONPATH='')\n{CHILD_CODE}"
    monkeypatch.setattr(executors, "child_command", lambda config, options: [sys.executable, "-c", code])
    (config,) = STUDY.grid({"seed": (0,), "q": (2.0,)})
    child = executors.Child(config, RunOptions(tmp_path))
    for step in (1, 2, 3):
        deadline = time.monotonic() + 60
        while not (progress := child.new_progress()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert (progress.step, progress.sparsity) == (step, None)
        assert child.new_progress() is None
        if step < 3:
            child.process.stdin.write(b"x")
            child.process.stdin.flush()
    assert child.process.wait(60) == 0  # it never waits for a reader
    child.close()


def test_a_parent_that_is_gone_fails_no_run(monkeypatch):
    def broken(*_):
        raise BrokenPipeError

    monkeypatch.setattr(os, "write", broken)
    executors._send(PROGRESS)


def test_a_report_is_shorter_than_a_line():
    longest = RunProgress(2**31, 2**31, 2**31, 2**31, 1e300 / 3, -1e300 / 3, "hoyer", 1 / 3)
    assert len(msgspec.json.encode(longest)) < executors.LONGEST_LINE


class Screen:
    """A command on a terminal of its own, 100 columns wide."""

    def __init__(self, *arguments):
        self.master, terminal = pty.openpty()
        self.text = ""
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "24"}
        words = [sys.executable, "-m", "sparseout", *map(str, arguments), "--device", "cpu"]
        self.process = subprocess.Popen(words, stdout=terminal, stderr=terminal, stdin=terminal, env=environment)
        os.close(terminal)

    def wait_for(self, pattern):
        """Read until the command has shown `pattern`, and return the match."""
        deadline = time.monotonic() + 120
        while not (found := re.search(pattern, self.text)):
            assert time.monotonic() < deadline, self.text
            assert self._read(), self.text
        return found

    def _read(self):
        if select.select([self.master], [], [], 1)[0]:
            try:
                self.text += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", os.read(self.master, 65536).decode(errors="replace"))
            except OSError:  # the terminal has closed
                return False
        return True

    def end(self):
        while self._read():
            pass
        os.close(self.master)
        return self.process.wait(60)


FLAGS = ["--hidden-size", 64, "--q", 1.5]


def test_a_terminal_shows_the_steps_the_loss_and_the_sparsity_of_a_run(tmp_path):
    screen = Screen("study", "autoencoder", *FLAGS, "--seed", 0, "--epochs", 600, "--out", tmp_path)
    screen.wait_for(r"q1.5-p0.5-seed0 \S+ epoch \d+/600, step \d+/12, [\d,]+ pixels/s +\d:\d\d:\d\d \d:\d\d:\d\d")
    screen.wait_for(r"loss 0\.\d+, hoyer 0\.\d+")
    screen.process.send_signal(signal.SIGINT)
    assert screen.end() == 130
    assert not list(tmp_path.rglob("*progress*"))


@pytest.mark.slow
def test_with_jobs_each_run_has_a_line_and_a_killed_one_loses_it(tmp_path):
    flags = [*FLAGS, "--seed", 0, 1, "--epochs", 400, "--target-sparsity", 0.5, "--jobs", 2]
    screen = Screen("study", "autoencoder", *flags, "--out", tmp_path)
    for seed in (0, 1):
        screen.wait_for(rf"hoyer0.5-p0.5-seed{seed} \S+ epoch \d+/400, loss 0\.\d+, hoyer 0\.\d+ +\S+ \d:\d\d:\d\d")
    pids = subprocess.run(["pgrep", "-P", str(screen.process.pid)], capture_output=True, text=True, check=True).stdout.split()
    victim = next(pid for pid in pids if "--seed\0001\0" in Path(f"/proc/{pid}/cmdline").read_text())
    os.kill(int(victim), signal.SIGKILL)
    screen.wait_for(r"0 of 2 done, 1 running, 1 failed")
    after = len(screen.text)
    screen.wait_for(r"1 of 2 done, 0 running, 1 failed")
    drawn = re.split(r"runs +[━╺╸]", screen.text[after:].partition("Failed:")[0])[2:]  # the first may be half drawn
    assert len(drawn) > 5
    assert not any("seed1 " in each for each in drawn)
    assert screen.end() == 1
    assert "died of signal 9" in screen.text
    assert len([json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]) == 1


def test_without_a_terminal_there_is_a_line_for_each_run(tmp_path):
    words = [sys.executable, "-m", "sparseout", "study", "autoencoder", *FLAGS, "--seed", 0, "--epochs", 40, "--out", tmp_path]
    done = subprocess.run([*map(str, words), "--device", "cpu"], capture_output=True, text=True, check=True)
    assert done.stdout.count("seed0") == 1
    assert "step" not in done.stdout
    assert done.stderr == ""
