"""How a sweep is executed: one run after another, several at a time on this machine, or each a task of a Ray cluster."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import NamedTuple

from sparseout.studies.config import Config, UserError
from sparseout.studies.place import Place
from sparseout.studies.run import Failure, Show, failure, run_one


@dataclasses.dataclass(frozen=True)
class Execution:
    """How a sweep is executed, which changes no number.

    Attributes:
        jobs: runs at a time on this machine, each in a process of its own
        ray: execute on a Ray cluster: 'auto' is the one that this machine belongs to, HOST:PORT any other
        dry_run: say what would be run, and how long that may take; run nothing
    """

    jobs: int = 1
    ray: str | None = None
    dry_run: bool = False

    def runs(self, configs: Sequence[Config], place: Place, shown: Callable[[Config], Show]) -> Iterator[Step]:
        """Execute `configs`, and tell each step on the way.

        Closing the iterator ends what is running.

        Args:
            configs: the runs.
            place: where they run.
            shown: of a run, what shows its progress; in one process only.

        Raises:
            UserError: these runs cannot be executed in this way.
        """
        if self.jobs < 1:
            raise UserError(f"jobs must be an integer of at least 1, got {self.jobs}")
        if self.ray is not None and self.jobs > 1:
            raise UserError("--jobs is for one machine: a Ray cluster runs as many at a time as it has room for")
        if place.processes() > 1 and (self.ray is not None or self.jobs > 1):
            raise UserError("--jobs and --ray are for runs of one process each: start them without a launcher")
        if self.ray is not None:
            from sparseout.studies.cluster import on_ray

            return on_ray(configs, place, self.ray)
        return in_processes(configs, place, self.jobs) if self.jobs > 1 else one_by_one(configs, place, shown)


class Step(NamedTuple):
    """What happened in a sweep.

    Attributes:
        running: how many runs are running now.
        ended: the run that ended, if one did.
        failure: why it failed, if it did.
    """

    running: int
    ended: Config | None = None
    failure: Failure | None = None


def one_by_one(configs: Sequence[Config], place: Place, shown: Callable[[Config], Show]) -> Iterator[Step]:
    """In this process."""
    for config in configs:
        yield Step(1)
        yield Step(0, config, run_one(config, place, shown(config)))


def in_processes(configs: Sequence[Config], place: Place, jobs: int) -> Iterator[Step]:
    """In `jobs` processes, each of which executes run after run; one that dies fails its run alone."""
    processes = Processes(place)
    with concurrent.futures.ThreadPoolExecutor(jobs) as threads:
        try:
            futures = {threads.submit(processes.run, config): config for config in configs}
            left = len(configs)
            yield Step(min(jobs, left))
            for future in concurrent.futures.as_completed(futures):
                left -= 1
                yield Step(min(jobs, left), futures[future], future.result())
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            processes.kill()
            raise
        finally:
            processes.close()


class Processes:
    """A process for each thread that calls `run`, made anew where it died."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._own = threading.local()
        self._pools: list[concurrent.futures.ProcessPoolExecutor] = []
        self._pids: set[int] = set()

    def run(self, config: Config) -> Failure | None:
        """`run_one`, in this thread's process."""
        pid = None
        try:
            pool = self._pool()
            pid = pool.submit(os.getpid).result()
            self._pids.add(pid)
            return pool.submit(run_one, config, self.place).result()
        except BrokenProcessPool:
            self._own.pool = None
            return failure(config, self.place, f"its process ({pid}) died, as when memory runs out")
        finally:
            self._pids.discard(pid or 0)

    def _pool(self) -> concurrent.futures.ProcessPoolExecutor:
        pool: concurrent.futures.ProcessPoolExecutor | None = getattr(self._own, "pool", None)
        if pool is None:
            context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
            pool = concurrent.futures.ProcessPoolExecutor(1, mp_context=context, initializer=_follow_parent)
            self._own.pool = pool
            self._pools.append(pool)
        return pool

    def kill(self) -> None:
        """End what is running."""
        for pid in tuple(self._pids):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)

    def close(self) -> None:
        """Let the processes go."""
        for pool in self._pools:
            pool.shutdown()


def _follow_parent() -> None:
    """Leave Ctrl-C to the parent, and end when it ends, however it does: what runs on would be in its successor's way."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
