"""One run, from its configuration to its summary: what a sweep executes here, in another process or on another machine."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
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

Show = Callable[[int, float, int], None]


@dataclasses.dataclass(frozen=True)
class Failure:
    """A run that ended before its end.

    Attributes:
        config: the run's settings.
        reason: in one line.
        command: that repeats the run, from its checkpoint where it has one.
    """

    config: Config
    reason: str
    command: str


class SweepEvent(NamedTuple):
    """What happened in a sweep.

    Attributes:
        running: how many runs are running now.
        ended: the run that ended, if one did.
        failure: why it failed, if it did.
    """

    running: int
    ended: Config | None = None
    failure: Failure | None = None


def failure(config: Config, place: RunOptions, reason: str, trace: str = "") -> Failure:
    """A `Failure`, recorded in the run's folder with the traceback; `trace` is empty for what was no exception."""
    found = Failure(config, reason, f"{config.command} {place.flags()}")
    with contextlib.suppress(OSError):  # which may be what the run failed of
        RunFolder(place.out / config.folder, config).write_failure(reason, found.command, trace)
    return found


def run_one(config: Config, place: RunOptions, show: Show | None = None) -> Failure | None:
    """Train a run to its end in its folder of `place.out`, from its checkpoint where it has one; a complete one is left alone.

    Where a launcher started several processes, each calls this, all train the run, and the first alone writes. An exception of
    one then ends them all, because the others would wait for it, unless all find that the run's folder is damaged.

    Args:
        config: the run.
        place: where its data, device and folder are.
        show: called after each step with the epoch, the fraction of it that is done, and how many items the step had.

    Returns:
        None, or why the run failed.
    """
    folder = RunFolder(place.out / config.folder, config)
    try:
        if folder.is_complete():
            return None
    except UserError as error:  # and its folder is left as it is
        return Failure(config, str(error), f"{config.command} {place.flags()}")
    try:
        _train(config, place, folder, show or (lambda *_: None))
    except Exception as error:
        if place.processes() > 1 and not isinstance(error, FolderError):
            raise
        with contextlib.suppress(UserError):
            if folder.is_complete():
                return None  # by another process, in whose way this one was
        name = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        return failure(config, place, name + (str(error).splitlines() or [""])[0], traceback.format_exc())
    return None


def _train(config: Config, place: RunOptions, folder: RunFolder, show: Show) -> None:
    accelerator, study = place.accelerator(), STUDIES[config.study]
    with accelerator.main_process_first():
        data = study.load(config, place.data_dir)
    if accelerator.is_main_process:
        folder.open()
    gc.freeze()  # what was there before the run need not be searched for garbage after it, which takes a sixth of a second
    try:
        with seeded_environment(config, accelerator.device):
            network = study.model(config, data).to(accelerator.device)
            learner = study.learner(config, data, network, accelerator)
            results, at = Engine(accelerator, place.checkpoint_minutes, place.tensorboard).train(learner, folder, show)
        if accelerator.is_main_process:
            save_tensors(folder.path / WEIGHTS, network.state_dict(), {"run": config.run})
            folder.write_summary(results, at.seconds, at.trained_by)
    finally:
        accelerator.free_memory()
        gc.unfreeze()


@contextlib.contextmanager
def seeded_environment(config: Config, device: torch.device) -> Iterator[None]:
    """The run's thread count, and default generators seeded for its initialisation; both as before afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed_of("initialisation"))
        try:
            yield
        finally:
            torch.set_num_threads(threads)
