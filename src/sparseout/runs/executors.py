"""Three ways to execute a sweep: one run after another, several processes on this machine, or tasks of a Ray cluster."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Annotated

import msgspec
import tyro

from sparseout.checks import check_integer
from sparseout.errors import UserError
from sparseout.records.files import remove_stale_parts
from sparseout.runs.options import RunOptions
from sparseout.runs.run import Failure, OnRunProgress, SweepEvent, failure_of, record_failure, run_one
from sparseout.studies.registry import STUDIES
from sparseout.training.config import Config
from sparseout.training.folders import RunFolder
from sparseout.training.run_progress import RunProgress
from sparseout.training.study import Study

ADDRESS = re.compile(r"(ray://)?[^/\s]+:\d{1,5}")  # of a Ray cluster
MAX_JOBS = 1024
POLL_SECONDS = 0.05
LONGEST_LINE = 4096  # bytes of a line that a child prints
CHILD = "SPARSEOUT_CHILD"  # environment variable of a child: `sparseout study` then trains one run and writes only its folder
FAILED = 3  # exit code of a child whose run failed; the last line of its standard error is the reason
INTERRUPTED = (-signal.SIGINT, 130)  # exit codes of a child that received Ctrl-C, as every process of a terminal does


@dataclasses.dataclass(frozen=True)
class SweepOptions:
    """How a sweep is executed. None of these options changes a number.

    Attributes:
        jobs: number of runs at a time on this machine, each in a process of its own, which takes seconds to start
        ray: execute on a Ray cluster: 'auto' is the cluster of this machine, HOST:PORT any other
        dry_run: list the runs and estimate the time they take; run nothing
        known: a results.jsonl: its records take the place of runs, which are not run again. The flag can be repeated
        known_any_version: also take over records of other versions of sparseout and torch
    """

    jobs: Annotated[int, tyro.conf.arg(metavar="INT")] = 1
    ray: Annotated[str | None, tyro.conf.arg(metavar="auto|HOST:PORT")] = None
    dry_run: bool = False
    known: tyro.conf.UseAppendAction[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE")]] = ()
    known_any_version: bool = False

    def check(self) -> None:
        """Raise `UserError` if a value is out of its range."""
        try:
            check_integer("jobs", self.jobs, 1, MAX_JOBS)
        except (TypeError, ValueError) as error:
            raise UserError(str(error)) from error
        if self.ray not in (None, "auto") and not ADDRESS.fullmatch(str(self.ray)):
            raise UserError(f"ray must be 'auto' or HOST:PORT, got {self.ray!r}")
        if self.ray is not None and self.jobs > 1:
            raise UserError("--jobs is for one machine: a Ray cluster runs as many runs at a time as it has room for")


def run_all(
    study: Study, configs: Sequence[Config], options: RunOptions, sweep: SweepOptions, on_progress: OnRunProgress
) -> Iterator[SweepEvent]:
    """Execute the runs and yield an event whenever one starts or ends. Closing the iterator ends the runs in progress.

    Args:
        study: the study of the runs.
        configs: the runs.
        options: their data, device and output folder.
        sweep: how to execute them.
        on_progress: called with a run in progress and its latest progress, at most every half second for each run.

    Raises:
        UserError: these runs cannot be executed in this way.
    """
    sweep.check()
    if options.processes() > 1 and (sweep.ray is not None or sweep.jobs > 1):
        raise UserError("--jobs and --ray are for runs of one process each: start them without a launcher")
    if sweep.ray is None and sweep.jobs == 1:
        return one_by_one(study, configs, options, on_progress)
    if not (study.config.source or study.config.study in STUDIES):
        raise UserError(f"--jobs and --ray need the name by which other processes import the study {study.config.study!r}")
    if sweep.ray is None:
        return in_processes(configs, options, sweep.jobs, on_progress)
    from sparseout.runs.ray import on_ray

    return on_ray(configs, options, sweep.ray, on_progress)


def one_by_one(study: Study, configs: Sequence[Config], options: RunOptions, on_progress: OnRunProgress) -> Iterator[SweepEvent]:
    """Execute the runs in this process, one after another."""
    for config in configs:
        yield SweepEvent(1, started=config)
        failure = run_one(study, config, options, functools.partial(on_progress, config))
        yield SweepEvent(0, ended=config, failure=failure)


def in_processes(configs: Sequence[Config], options: RunOptions, jobs: int, on_progress: OnRunProgress) -> Iterator[SweepEvent]:
    """Execute each run in a process of its own, `jobs` at a time. If a process dies, only its run fails.

    Raises:
        KeyboardInterrupt: a process received Ctrl-C.
    """
    waiting = collections.deque(configs)
    running: list[Child] = []
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                running.append(Child(waiting.popleft(), options))
                yield SweepEvent(len(running), started=running[-1].folder.config)
            while not (ended := [child for child in running if child.process.poll() is not None]):
                time.sleep(POLL_SECONDS)
                for child in running:
                    if progress := child.new_progress():
                        on_progress(child.folder.config, progress)
            for child in ended:
                running.remove(child)
                yield SweepEvent(len(running), ended=child.folder.config, failure=child.failure())
    finally:
        for child in running:
            child.process.terminate()
        for child in running:
            child.close()


class Child:
    """A process that trains one run by the run's own command.

    Its standard input is a pipe that this process holds open. The pipe closes when this process ends, however it does, and the
    child then ends too (see `run_as_child`). Its standard output is a pipe too, on which it reports its progress. A thread reads
    all of it, so that a child never waits for this process, and drops what the code of a study prints.
    """

    def __init__(self, config: Config, options: RunOptions) -> None:
        self.folder = RunFolder(options.out / config.folder, config)
        self.options = options
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (a pipe that nobody reads could fill up)
        self.process = subprocess.Popen(
            child_command(config, options),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**os.environ, CHILD: "1"},
        )
        self._progress: RunProgress | None = None
        threading.Thread(target=self._read_progress, args=(self.process.stdout,), daemon=True).start()

    def new_progress(self) -> RunProgress | None:
        """Return the latest progress that the child reported since the last call, if it did."""
        progress, self._progress = self._progress, None
        return progress

    def _read_progress(self, output: IO[bytes]) -> None:
        """Read the child's standard output to its end, which comes when the child, and what it started, have ended."""
        with output:
            for line in iter(lambda: output.readline(LONGEST_LINE), b""):
                with contextlib.suppress(msgspec.DecodeError, ValueError):  # a line that the code of a study printed
                    self._progress = msgspec.json.decode(line, type=RunProgress)

    def failure(self) -> Failure | None:
        """Return why the run failed, if it did, once the process has ended; print its warnings.

        Raises:
            KeyboardInterrupt: the process received Ctrl-C.
        """
        self._errors.seek(0)
        errors = self._errors.read().decode(errors="replace")
        lines = errors.splitlines()
        code = self.process.returncode
        self.close()
        if code in INTERRUPTED:
            raise KeyboardInterrupt
        if code == FAILED and lines:
            reason = lines.pop()
        if code in (0, FAILED):
            print(*lines, sep="\n", end="\n" if lines else "", file=sys.stderr)
        if code == 0:
            return None
        if code == FAILED:
            return failure_of(self.folder.config, self.options, reason)
        end = f"died of signal {-code}" if code < 0 else f"ended with exit code {code}"
        cause = ", as when memory runs out" if code == -signal.SIGKILL else ""
        last = f": {lines[-1]}" if lines else ""
        return record_failure(self.folder, self.options, f"its process ({self.process.pid}) {end}{cause}{last}", errors)

    def close(self) -> None:
        """Wait for the process, close its files, and remove files that it did not finish writing."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()
        self._errors.close()
        if isinstance(self.folder.path, Path):
            remove_stale_parts(self.folder.path)


def child_command(config: Config, options: RunOptions) -> list[str]:
    """Return the command of a `Child`."""
    return [sys.executable, "-m", *shlex.split(config.command), *shlex.split(options.flags())]


def run_as_child(study: Study, config: Config, options: RunOptions) -> int:
    """Train one run as a `Child` does, print why it failed, if it did, and return the exit code."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    failure = run_one(study, config, options, _send)
    if failure:
        print(failure.reason, file=sys.stderr)
    return FAILED if failure else 0


def _send(progress: RunProgress) -> None:
    """Report the progress to the parent, in a line of its own whatever the code of a study prints."""
    with contextlib.suppress(OSError):
        os.write(1, b"\n" + msgspec.json.encode(progress) + b"\n")


def _end_with_parent() -> None:
    """End this process when standard input closes: a process that outlives its sweep would compete with the next one."""
    with contextlib.suppress(OSError):
        os.read(0, 1)
    os._exit(1)
