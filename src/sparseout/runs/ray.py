"""A sweep on a Ray cluster: each run is a task. If its machine is lost, Ray restarts the task on another one."""

from __future__ import annotations

import dataclasses
import logging
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sparseout.errors import UserError
from sparseout.runs.options import RunOptions
from sparseout.runs.run import SweepEvent, failure_of, record_failure, run_one
from sparseout.studies.registry import find_study
from sparseout.training.config import Config
from sparseout.training.folders import RunFolder

RETRIES = 5  # restarts of a run whose worker was lost; a run that raised an exception would raise it again
INTERVAL = 1.0  # seconds between two updates of the number of runs in progress


def on_ray(configs: Sequence[Config], options: RunOptions, address: str) -> Iterator[SweepEvent]:
    """Execute the runs on the cluster at `address`. Each run gets one CPU per thread, and a GPU if it uses one.

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
    pending = {}
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
        task = ray.remote(_run_named)
        for config in configs:
            sized = task.options(name=config.folder, num_cpus=config.threads, num_gpus=gpus, max_retries=RETRIES)
            name, settings = config.source or config.study, dataclasses.asdict(config)
            pending[sized.remote(name, settings, absolute, os.getcwd())] = config
        while pending:
            ended, _ = ray.wait(list(pending), timeout=INTERVAL)
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


def _run_named(name: str, settings: dict[str, Any], options: RunOptions, folder: str) -> str | None:
    """Train the run with these settings of the study `name`, imported from `folder`. Return why it failed, or None."""
    sys.path.insert(0, folder)  # a worker starts in another folder
    study = find_study(name)
    failure = run_one(study, study.config(**settings), options)
    return failure.reason if failure else None


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
