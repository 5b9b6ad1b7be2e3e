"""A sweep on a Ray cluster: each run is a task, which Ray places, and starts again elsewhere when its machine is lost."""

from __future__ import annotations

import dataclasses
import logging
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

from sparseout.errors import UserError
from sparseout.runs.options import RunOptions
from sparseout.runs.run import SweepEvent, failure, run_one
from sparseout.training.config import Config

RETRIES = 5  # of a run whose worker was lost; a run that fails by itself would fail again
INTERVAL = 1.0  # seconds between two looks at what is running


def on_ray(configs: Sequence[Config], place: RunOptions, address: str) -> Iterator[SweepEvent]:
    """Execute `configs` on the cluster at `address`, with a CPU for each of a run's threads, and a GPU where it uses one.

    Raises:
        UserError: ray is not installed, there is no cluster, or its machines cannot execute a run.
    """
    try:
        import ray
    except ImportError as error:
        raise UserError("--ray needs ray: pip install 'sparseout[ray]'") from error
    if ":" in place.device:
        raise UserError(f"device must be a kind such as 'cuda' on Ray, which chooses which one, got {place.device!r}")
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
        gpus = int(place.device == "cuda" or (place.device == "auto" and room.get("GPU", 0) > 0))
        most = max(node["Resources"].get("CPU", 0) for node in ray.nodes())
        for config in configs:
            if config.threads > most:
                raise UserError(
                    f"threads must be at most the {most:g} CPUs of the cluster's largest machine, got {config.threads}"
                )
        # A worker has a working directory of its own.
        out = place.out.absolute() if isinstance(place.out, Path) else place.out
        there = dataclasses.replace(place, out=out, data_dir=place.data_dir and place.data_dir.absolute())
        task = ray.remote(run_one)
        for config in configs:
            asked = task.options(name=config.folder, num_cpus=config.threads, num_gpus=gpus, max_retries=RETRIES)
            pending[asked.remote(config, there)] = config
        while pending:
            ended, _ = ray.wait(list(pending), timeout=INTERVAL)
            for reference in ended:
                config = pending.pop(reference)
                try:
                    failed = ray.get(reference)
                except ray.exceptions.RayError as error:
                    failed = failure(config, place, f"{type(error).__name__}: {str(error).splitlines()[0]}")
                yield SweepEvent(_running(len(pending), config), config, failed)
            if not ended:
                yield SweepEvent(_running(len(pending), next(iter(pending.values()))))
    finally:
        for reference in pending:
            ray.cancel(reference, force=True)
        if own:
            ray.shutdown()


def _running(pending: int, config: Config) -> int:
    """How many of the pending runs run, by the CPUs in use."""
    import ray

    used = ray.cluster_resources().get("CPU", 0) - ray.available_resources().get("CPU", 0)
    return int(min(pending, round(used / config.threads)))


def _check_answers(address: str) -> None:
    """Raise unless something listens at `HOST:PORT`: Ray itself would try for minutes, deaf to signals."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not (host and port.isdigit()):  # 'auto', or what Ray has to judge
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"--ray: nothing answers at {address!r} ({error}): `ray start --head` starts a cluster") from error
