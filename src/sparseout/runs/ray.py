"""A sweep on a Ray cluster: each run is a task. If its machine is lost, Ray restarts the task on another one."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import socket
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sparseout.errors import UserError
from sparseout.runs.options import RunOptions
from sparseout.runs.run import OnRunProgress, SweepEvent, failure_of, record_failure, run_one
from sparseout.studies.registry import find_study
from sparseout.training.config import Config
from sparseout.training.folders import RunFolder
from sparseout.training.run_progress import RunProgress

RETRIES = 5  # restarts of a run whose worker was lost; a run that raised an exception would raise it again
INTERVAL = 1.0  # seconds between two updates of the runs in progress


def on_ray(configs: Sequence[Config], options: RunOptions, address: str, on_progress: OnRunProgress) -> Iterator[SweepEvent]:
    """Execute the runs on the cluster at `address`. Each run gets one CPU per thread, and a GPU if it uses one.

    Args:
        configs: the runs.
        options: their data, device and output folder.
        address: the cluster.
        on_progress: called with a run in progress and its latest progress, about once a second for each run.

    Raises:
        UserError: ray is not installed, there is no cluster at the address, or no machine has room for a run.
    """
    try:
        import ray
    except ImportError as error:
        raise UserError("--ray needs ray: pip install 'sparseout[ray]'") from error
    if ":" in options.device:
        raise UserError(f"device must be a type such as 'cuda' on Ray, which chooses the index itself, got {options.device!r}")
    own = not ray.is_initialized()
    if own:
        _check_answers(address)
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"--ray: there is no cluster at {address!r} ({reason}): `ray start --head` starts one") from error
    pending: dict[Any, Config] = {}
    started: set[str] = set()
    try:
        room = ray.cluster_resources()
        gpus = int(options.device == "cuda" or (options.device == "auto" and room.get("GPU", 0) > 0))
        most = max(node["Resources"].get("CPU", 0) for node in ray.nodes())
        for threads in {config.threads for config in configs}:
            if threads > most:
                raise UserError(f"threads must be at most the {most:g} CPUs of the cluster's largest machine, got {threads}")
        # A worker has another working directory.
        out = options.out.absolute() if isinstance(options.out, Path) else options.out
        absolute = dataclasses.replace(options, out=out, data_dir=options.data_dir and options.data_dir.absolute())
        latest = ray.remote(LatestProgress).options(num_cpus=0, max_restarts=-1).remote()
        task = ray.remote(_run_named)
        for config in configs:
            sized = task.options(name=config.folder, num_cpus=config.threads, num_gpus=gpus, max_retries=RETRIES)
            name, settings = config.source or config.study, dataclasses.asdict(config)
            pending[sized.remote(name, settings, absolute, os.getcwd(), latest)] = config
        while pending:
            ended, _ = ray.wait(list(pending), timeout=INTERVAL)
            for config, progress in _in_progress(latest, pending.values()):
                if config.run not in started:
                    started.add(config.run)
                    yield SweepEvent(_running(len(pending), config), started=config)
                on_progress(config, progress)
            for reference in ended:
                config = pending.pop(reference)
                try:
                    reason = ray.get(reference)
                    failure = failure_of(config, options, reason) if reason else None
                except ray.exceptions.RayError as error:
                    failure = record_failure(
                        RunFolder(options.out / config.folder, config),
                        options,
                        f"{type(error).__name__}: {str(error).splitlines()[0]}",
                    )
                yield SweepEvent(_running(len(pending), config), ended=config, failure=failure)
            if not ended:
                yield SweepEvent(_running(len(pending), next(iter(pending.values()))))
    finally:
        for reference in pending:
            ray.cancel(reference, force=True)
        if own:
            ray.shutdown()


class LatestProgress:
    """An actor that keeps the latest progress of each run. Workers report to it, and the sweep takes from it."""

    def __init__(self) -> None:
        self._reports: dict[str, RunProgress] = {}

    def report(self, run: str, progress: RunProgress) -> None:
        """Keep the progress of a run."""
        self._reports[run] = progress

    def take(self) -> dict[str, RunProgress]:
        """Return the progress of the runs that reported since the last call."""
        reports, self._reports = self._reports, {}
        return reports


def _run_named(name: str, settings: dict[str, Any], options: RunOptions, folder: str, latest: Any) -> str | None:
    """Train the run with these settings of the study `name`, imported from `folder`. Return why it failed, or None.

    `latest` is the handle of the `LatestProgress`, to which it reports.
    """
    sys.path.insert(0, folder)  # a worker starts in another folder
    study = find_study(name)
    config = study.config(**settings)
    failure = run_one(study, config, options, lambda progress: latest.report.remote(config.run, progress))
    return failure.reason if failure else None


def _in_progress(latest: Any, pending: Iterable[Config]) -> Iterator[tuple[Config, RunProgress]]:
    """Yield the pending runs that reported, with their progress. Without an answer, as while its machine is lost, yield none."""
    import ray

    reports: dict[str, RunProgress] = {}
    with contextlib.suppress(ray.exceptions.RayError):
        reports = ray.get(latest.take.remote(), timeout=INTERVAL)
    for config in pending:
        if config.run in reports:
            yield config, reports[config.run]


def _running(pending: int, config: Config) -> int:
    """Return how many of the pending runs are in progress, from the number of CPUs in use."""
    import ray

    used = ray.cluster_resources().get("CPU", 0) - ray.available_resources().get("CPU", 0)
    return int(min(pending, round(used / config.threads)))


def _check_answers(address: str) -> None:
    """Raise unless something listens at `HOST:PORT`: Ray itself would try for minutes and ignore signals."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdigit()):  # 'auto', or an address that Ray checks
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"--ray: nothing answers at {address!r} ({error}): `ray start --head` starts a cluster") from error
