"""One run, from its configuration to its summary. A sweep executes it in this process, in another or on another machine."""

from __future__ import annotations

import contextlib
import dataclasses
import traceback
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from sparseout.errors import FolderError, UserError
from sparseout.runs.options import RunOptions
from sparseout.training.config import Config
from sparseout.training.engine import Engine
from sparseout.training.folders import RunFolder
from sparseout.training.run_progress import OnProgress, RunProgress
from sparseout.training.study import Study

OnRunProgress = Callable[[Config, RunProgress], None]


@dataclasses.dataclass(frozen=True)
class Failure:
    """A run that stopped before its end.

    Attributes:
        config: the run's settings.
        reason: the reason, in one line.
        command: the command that repeats the run; it resumes from the run's checkpoint.
    """

    config: Config
    reason: str
    command: str


class SweepEvent(NamedTuple):
    """A change in the state of a sweep.

    Attributes:
        running: the number of runs in progress.
        started: the run that starts, if one does.
        ended: the run that ended, if one did.
        failure: why that run failed, if it did.
    """

    running: int
    started: Config | None = None
    ended: Config | None = None
    failure: Failure | None = None


def failure_of(config: Config, options: RunOptions, reason: str) -> Failure:
    """Return the failure of a run, with the command that repeats the run."""
    return Failure(config, reason, f"{config.command} {options.flags()}")


def run_one(study: Study, config: Config, options: RunOptions, on_progress: OnProgress = lambda _: None) -> Failure | None:
    """Train a run to its end in its folder of `options.out`. Resume from its checkpoint; leave a complete run alone.

    If a launcher started several processes, each process calls this. All train the run together and only the first one writes.
    An exception in one process then ends them all, because the others would wait for it forever. A damaged folder, which all
    processes find, fails the run instead.

    Args:
        study: the study of the run.
        config: the run.
        options: its data, device and output folder.
        on_progress: called with the progress of the run, at most every half second.

    Returns:
        None, or the failure.
    """
    folder = RunFolder(options.out / config.folder, config)
    try:
        if not folder.is_complete():  # another sweep may have completed it
            _train(study, config, options, folder, on_progress)
    except Exception as error:
        if options.processes() > 1 and not isinstance(error, FolderError):
            raise
        if folder.is_complete():
            return None  # another process completed the run, and this one failed on its files
        name = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        return record_failure(folder, options, name + (str(error).splitlines() or [""])[0], traceback.format_exc())
    return None


def record_failure(folder: RunFolder, options: RunOptions, reason: str, trace: str = "") -> Failure:
    """Write a run's failure to its folder and return it; `trace` is the traceback, if an exception was raised."""
    failure = failure_of(folder.config, options, reason)
    with contextlib.suppress(OSError):  # a full disk may be the reason itself
        folder.write_failure(reason, failure.command, trace)
    return failure


def _train(study: Study, config: Config, options: RunOptions, folder: RunFolder, on_progress: OnProgress) -> None:
    accelerator = options.accelerator()
    with accelerator.main_process_first():
        data = study.load(config, options.data_dir)
    try:
        with seeded_environment(config, accelerator.device):
            network = study.model(config, data).to(accelerator.device)
            learner = study.learner(config, data, network, accelerator)
            Engine(accelerator, options.checkpoint_minutes, options.tensorboard).train(learner, folder, on_progress)
    finally:
        accelerator.free_memory()


@contextlib.contextmanager
def seeded_environment(config: Config, device: torch.device) -> Iterator[None]:
    """Set the run's thread count and seed the default generators for its initialisation; restore both on exit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed_of("initialisation"))
        try:
            yield
        finally:
            torch.set_num_threads(threads)
