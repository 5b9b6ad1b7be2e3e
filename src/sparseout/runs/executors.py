"""How a sweep is executed: one run after another, several at a time on this machine, or each a task of a Ray cluster."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import multiprocessing
import multiprocessing.connection
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from sparseout.checks import check_integer
from sparseout.errors import UserError
from sparseout.runs.options import RunOptions
from sparseout.runs.run import Failure, Show, SweepEvent, failure, run_one
from sparseout.training.config import Config

ADDRESS = re.compile(r"(ray://)?[^/\s]+:\d{1,5}")  # of a cluster
MOST_JOBS = 1024


@dataclasses.dataclass(frozen=True)
class SweepOptions:
    """How a sweep is executed, which changes no number.

    Attributes:
        jobs: runs at a time on this machine, each in a process of its own
        ray: execute on a Ray cluster: 'auto' is the one that this machine belongs to, HOST:PORT any other
        dry_run: say what would be run, and how long that may take; run nothing
    """

    jobs: int = 1
    ray: str | None = None
    dry_run: bool = False

    def check(self) -> None:
        """Raise `UserError` unless every value is in its range."""
        try:
            check_integer("jobs", self.jobs, 1, MOST_JOBS)
        except (TypeError, ValueError) as error:
            raise UserError(str(error)) from error
        if self.ray not in (None, "auto") and not ADDRESS.fullmatch(str(self.ray)):
            raise UserError(f"ray must be 'auto' or HOST:PORT, got {self.ray!r}")

    def runs(self, configs: Sequence[Config], place: RunOptions, shown: Callable[[Config], Show]) -> Iterator[SweepEvent]:
        """Execute `configs`, and tell each step on the way.

        Closing the iterator ends what is running.

        Args:
            configs: the runs.
            place: where they run.
            shown: of a run, what shows its progress; in one process only.

        Raises:
            UserError: these runs cannot be executed in this way.
        """
        self.check()
        if self.ray is not None and self.jobs > 1:
            raise UserError("--jobs is for one machine: a Ray cluster runs as many at a time as it has room for")
        if place.processes() > 1 and (self.ray is not None or self.jobs > 1):
            raise UserError("--jobs and --ray are for runs of one process each: start them without a launcher")
        if self.ray is not None:
            from sparseout.runs.ray import on_ray

            return on_ray(configs, place, self.ray)
        return in_processes(configs, place, self.jobs) if self.jobs > 1 else one_by_one(configs, place, shown)


def one_by_one(configs: Sequence[Config], place: RunOptions, shown: Callable[[Config], Show]) -> Iterator[SweepEvent]:
    """In this process."""
    for config in configs:
        yield SweepEvent(1)
        yield SweepEvent(0, config, run_one(config, place, shown(config)))


def in_processes(configs: Sequence[Config], place: RunOptions, jobs: int) -> Iterator[SweepEvent]:
    """In `jobs` processes, each of which executes run after run; one that dies fails its run alone."""
    waiting = collections.deque(configs)
    with contextlib.closing(Processes(place)) as processes:
        while waiting or processes.running:
            while waiting and len(processes.running) < jobs:
                processes.start(waiting.popleft())
            yield SweepEvent(len(processes.running))
            for config, failed in processes.ended():
                yield SweepEvent(len(processes.running), config, failed)


class Processes:
    """Processes that execute a run each, and then another; in place of one that died there is a new one.

    Attributes:
        running: what comes from a process that executes a run, with the process and the run.
    """

    def __init__(self, place: RunOptions) -> None:
        self.place = place
        self.running: dict[Connection, tuple[BaseProcess, Config]] = {}
        self._idle: list[tuple[Connection, BaseProcess]] = []

    @property
    def _pids(self) -> set[int]:
        """The processes that execute a run."""
        return {process.pid for process, _ in self.running.values() if process.pid}

    def start(self, config: Config) -> None:
        """Begin a run."""
        connection, process = self._idle.pop() if self._idle else self._process()
        self.running[connection] = process, config
        with contextlib.suppress(OSError):  # it died, as `ended` will find
            connection.send(config)

    def ended(self) -> Iterator[tuple[Config, Failure | None]]:
        """Wait until a run has ended; each that has, and why it failed."""
        for connection in multiprocessing.connection.wait(list(self.running)):
            assert isinstance(connection, Connection)
            process, config = self.running.pop(connection)
            try:
                failed: Failure | None = connection.recv()
                self._idle.append((connection, process))
            except (EOFError, OSError):
                process.join()
                connection.close()
                failed = failure(config, self.place, f"its process ({process.pid}) died{_cause(process.exitcode)}")
            yield config, failed

    def close(self) -> None:
        """End what is running, and let the processes go."""
        processes = [process for process, _ in self.running.values()] + [process for _, process in self._idle]
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()
        for connection in (*self.running, *(connection for connection, _ in self._idle)):
            connection.close()

    def _process(self) -> tuple[Connection, BaseProcess]:
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
        here, there = context.Pipe()
        process = context.Process(target=_execute, args=(there, self.place), daemon=True)
        with _ctrl_c_blocked():
            process.start()
        there.close()
        return here, process


def _cause(exitcode: int | None) -> str:
    """The likely cause of a process's death, by its exit code."""
    if exitcode == -signal.SIGKILL:
        return ", as when memory runs out"
    return f" of signal {-exitcode}" if exitcode and exitcode < 0 else f" with exit code {exitcode}"


@contextlib.contextmanager
def _ctrl_c_blocked() -> Iterator[None]:
    """Ctrl-C waits, and a process that starts meanwhile never gets it: its parent does, and ends it."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _execute(connection: Connection, place: RunOptions) -> None:
    """Execute each run that comes, until the parent ends, however it does: what runs on would be in its successor's way."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    with contextlib.suppress(EOFError, OSError):
        while True:
            connection.send(run_one(connection.recv(), place))
