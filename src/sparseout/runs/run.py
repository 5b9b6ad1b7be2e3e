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
from sparseout.studies.registry import STUDIES
from sparseout.training.checkpoint import save_tensors
from sparseout.training.config import Config
from sparseout.training.engine import Engine
from sparseout.training.folders import WEIGHTS, RunFolder

OnStep = Callable[[int, float, int], None]


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
        ended: the run that ended, if one did.
        failure: why that run failed, if it did.
    """

    running: int
    ended: Config | None = None
    failure: Failure | None = None


def command_of(config: Config, options: RunOptions) -> str:
    """Return the command that repeats a run in its folder."""
    return f"{config.command} {options.flags()}"


def record_failure(config: Config, options: RunOptions, reason: str, trace: str = "") -> Failure:
    """Write a run's failure to its folder and return it; `trace` is the traceback, if an exception was raised."""
    failure = Failure(config, reason, command_of(config, options))
    with contextlib.suppress(OSError):  # a full disk may be the reason itself
        RunFolder(options.out / config.folder, config).write_failure(reason, failure.command, trace)
    return failure


def run_one(config: Config, options: RunOptions, on_step: OnStep | None = None) -> Failure | None:
    """Train a run to its end in its folder of `options.out`. Resume from its checkpoint; leave a complete run alone.

    If a launcher started several processes, each process calls this. All train the run together and only the first one writes.
    An exception in one process then ends them all, because the others would wait for it forever. The exception is a damaged
    folder, which all processes find.

    Args:
        config: the run.
        options: its data, device and output folder.
        on_step: called after each step with the epoch, the fraction of it that is done, and the number of items in the step.

    Returns:
        None, or the failure.
    """
    folder = RunFolder(options.out / config.folder, config)
    try:
        if folder.is_complete():
            return None
    except UserError as error:  # the folder stays as it is
        return Failure(config, str(error), command_of(config, options))
    try:
        _train(config, options, folder, on_step or (lambda *_: None))
    except Exception as error:
        if options.processes() > 1 and not isinstance(error, FolderError):
            raise
        with contextlib.suppress(UserError):
            if folder.is_complete():
                return None  # another process completed the run, and this one failed on its files
        name = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        return record_failure(config, options, name + (str(error).splitlines() or [""])[0], traceback.format_exc())
    return None


def _train(config: Config, options: RunOptions, folder: RunFolder, on_step: OnStep) -> None:
    accelerator, study = options.accelerator(), STUDIES[config.study]
    with accelerator.main_process_first():
        data = study.load(config, options.data_dir)
    if accelerator.is_main_process:
        folder.open()
    try:
        with seeded_environment(config, accelerator.device):
            network = study.model(config, data).to(accelerator.device)
            learner = study.learner(config, data, network, accelerator)
            results, at = Engine(accelerator, options.checkpoint_minutes, options.tensorboard).train(learner, folder, on_step)
        if accelerator.is_main_process:
            save_tensors(folder.path / WEIGHTS, network.state_dict(), {"run": config.run})
            folder.write_summary(results, at.seconds, at.trained_by)
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
