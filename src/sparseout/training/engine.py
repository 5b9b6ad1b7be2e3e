"""The training engine of all studies: epochs, checkpoints and records. A killed run resumes to the same numbers."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import torch
from accelerate import Accelerator
from torch import Tensor

from sparseout.errors import FolderError, UserError
from sparseout.records.provenance import changes, origin
from sparseout.records.schema import LARGEST, Record
from sparseout.training.checkpoint import load_checkpoint, save_checkpoint, save_tensors
from sparseout.training.folders import CHECKPOINT, WEIGHTS, RunFolder
from sparseout.training.learner import Learner
from sparseout.training.run_progress import OnProgress, Reporter

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

Origin = dict[str, str | int | None]
AGREE_EVERY = 50  # steps between two decisions that several processes take together


@dataclasses.dataclass
class Position:
    """The progress of a run.

    Attributes:
        epoch: current epoch, counted from 1.
        step: number of completed steps of the epoch.
        loss: sum of the epoch's losses so far.
        items: number of items in that sum.
        seconds: training time so far, at least 0, over all sessions of the run.
        trained_by: `origin` of each session that differs from the previous one.
    """

    epoch: Annotated[int, msgspec.Meta(ge=1)] = 1
    step: Annotated[int, msgspec.Meta(ge=0)] = 0
    loss: float = 0.0
    items: Annotated[int, msgspec.Meta(ge=0)] = 0
    seconds: float = 0.0
    trained_by: list[Origin] = dataclasses.field(default_factory=list)


class Engine:
    """Trains runs: `for epoch: for step: learner.update(step)`, with an evaluation and a checkpoint after each epoch.

    Args:
        accelerator: Accelerate's handle of the device and the other processes.
        checkpoint_minutes: minutes between two checkpoints within an epoch.
        tensorboard: whether to write TensorBoard's event files.
    """

    def __init__(self, accelerator: Accelerator, checkpoint_minutes: float, tensorboard: bool) -> None:
        self.accelerator = accelerator
        self.checkpoint_seconds = 60 * checkpoint_minutes
        self.tensorboard = tensorboard

    def train(self, learner: Learner, folder: RunFolder, on_progress: OnProgress) -> Record:
        """Train a run to its end, from its last checkpoint if it has one, and write its weights and its summary.

        Args:
            learner: the run before its first step.
            folder: the run's files; only the first process writes them.
            on_progress: called with the progress of the run after a step, at most every half second.

        Returns:
            The results of the run.
        """
        if self.accelerator.is_main_process:
            folder.open()
        self._clock = time.perf_counter()
        learner.attach_target()
        at, steps = self._resume(learner, folder)
        reporter = Reporter(learner, on_progress)
        with self._events(folder) as events:
            while at.epoch <= learner.config.epochs:
                if not at.step:
                    steps = learner.start_epoch(at.epoch)
                self._train_epoch(learner, folder, at, steps, reporter)
                metrics = {"train_loss": at.loss / at.items if at.items else None, **learner.broadcast(learner.evaluate())}
                reporter.evaluated(metrics)
                if learner.target_run:
                    metrics[learner.target_run.dial] = learner.target_run.value
                self._end_epoch(learner, folder, at, metrics, events)
        if learner.target_run:
            learner.target_run.target.stop()
        results = learner.broadcast(learner.results())
        if learner.target_run:
            results |= learner.target_run.results(results)
        self._tick(at)
        if self.accelerator.is_main_process:
            save_tensors(folder.path / WEIGHTS, learner.network.state_dict(), {"run": learner.config.run})
            folder.write_summary(results, at.seconds, at.trained_by)
        return dict(results)

    def _train_epoch(self, learner: Learner, folder: RunFolder, at: Position, steps: int, reporter: Reporter) -> None:
        """Train the remaining steps of the epoch."""
        losses: list[Tensor] = []
        learner.network.train()
        saved = time.perf_counter()
        for step in range(at.step, steps):
            self._seed_noise(learner, at.epoch, step)
            loss, items = learner.update(step)
            losses.append(loss)
            at.items += items
            at.step = step + 1
            reporter.step(at.epoch, at.step, steps, loss, items)
            if self._is_due(learner, step, saved):
                self._collect(losses, at)
                self._save(learner, folder, at)
                saved = time.perf_counter()
        self._collect(losses, at)

    def _end_epoch(
        self, learner: Learner, folder: RunFolder, at: Position, metrics: Record, events: SummaryWriter | None
    ) -> None:
        """Record the epoch, then save a checkpoint at the start of the next; a run killed in between repeats the epoch."""
        self._tick(at)
        if self.accelerator.is_main_process:
            metrics = {name: value for name, value in metrics.items() if name != "layers"}
            folder.add_epoch({"epoch": at.epoch, **metrics, "seconds": round(at.seconds, 3)})
            for name, value in metrics.items():
                if events and value is not None:
                    events.add_scalar(name, value, at.epoch)
        at.epoch, at.step, at.loss, at.items = at.epoch + 1, 0, 0.0, 0
        self._save(learner, folder, at)

    def _seed_noise(self, learner: Learner, epoch: int, step: int) -> None:
        """Seed the device's default generator, the source of the noise, for this step of this process."""
        seed = learner.config.seed_of("noise", epoch, step, self.accelerator.process_index)
        if learner.device.type == "cpu":
            torch.default_generator.manual_seed(seed)
        else:
            torch.get_device_module(learner.device).manual_seed(seed)

    def _collect(self, losses: list[Tensor], at: Position) -> None:
        """Add the losses of all processes to the position, one step at a time, so that the sum does not depend on the calls."""
        if losses:
            for loss in self.accelerator.reduce(torch.stack(losses), "sum").tolist():
                at.loss += loss
            losses.clear()

    def _is_due(self, learner: Learner, step: int, saved: float) -> bool:
        """Return whether to save a checkpoint within the epoch; all processes agree on it."""
        due = time.perf_counter() - saved > self.checkpoint_seconds
        if self.accelerator.num_processes == 1:
            return due
        return step % AGREE_EVERY == AGREE_EVERY - 1 and bool(learner.broadcast(due))

    def _save(self, learner: Learner, folder: RunFolder, at: Position) -> None:
        self._tick(at)
        state = learner.state_dict()
        if self.accelerator.is_main_process:
            save_checkpoint(folder.path / CHECKPOINT, learner.config.run, {"at": dataclasses.asdict(at), "learner": state})

    def _resume(self, learner: Learner, folder: RunFolder) -> tuple[Position, int]:
        """Restore the last checkpoint, which the first process reads for all. Return its position and its epoch's steps."""
        found = self._read(learner, folder) if self.accelerator.is_main_process else None
        found = learner.broadcast(found)
        if isinstance(found, FolderError):
            raise found
        state, at = found
        # Starting the epoch again restores its data order; the checkpoint then restores the state in the middle of it.
        steps = learner.start_epoch(at.epoch) if at.step else 0
        try:
            if state is not None:
                learner.load_state_dict(state)
        except Exception as error:  # a malformed state may fail anywhere in the learner, the network or torch
            raise _refused(folder, f"{type(error).__name__}: {error}") from error
        return at, steps

    def _read(self, learner: Learner, folder: RunFolder) -> tuple[dict[str, Any] | None, Position] | FolderError:
        """Return the learner's state and the position in the checkpoint, or the reason that it cannot be resumed.

        Without a checkpoint the state is None.
        """
        now = origin(self.accelerator.device, self.accelerator.num_processes)
        path = folder.path / CHECKPOINT
        try:
            if not path.exists():
                folder.truncate_history(0)
                return None, Position(trained_by=[now])
            state = load_checkpoint(path, learner.config.run)
            at: Position = msgspec.convert(state.get("at"), Position)
            folder.truncate_history(at.epoch - 1)
            at.seconds = at.seconds if 0 <= at.seconds < LARGEST else 0.0
            at.trained_by = _add_origin(folder, at.trained_by, now)
            return state.get("learner", {}), at
        except msgspec.ValidationError as error:
            return _refused(folder, f"at: {error}")
        except UserError as error:
            return FolderError(str(error))

    def _tick(self, at: Position) -> None:
        """Add the time since the previous call to the position."""
        now = time.perf_counter()
        at.seconds += max(0.0, now - self._clock)  # a clock may step back
        self._clock = now

    @contextlib.contextmanager
    def _events(self, folder: RunFolder) -> Iterator[SummaryWriter | None]:
        """Yield TensorBoard's writer, or None if it is off."""
        if not (self.tensorboard and self.accelerator.is_main_process):
            yield None
            return
        if not isinstance(folder.path, Path):
            raise UserError(f"--tensorboard needs a local --out, got {folder.path}")
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError("--tensorboard needs tensorboard: pip install tensorboard") from error
        with SummaryWriter(str(folder.path / "tensorboard")) as events:
            yield events


def _add_origin(folder: RunFolder, before: list[Origin], now: Origin) -> list[Origin]:
    """Return the origins of a run with the current one, and print a warning if it differs from the last."""
    before = before or [{"sparseout": None}]  # earlier versions did not record it
    changed = changes(before[-1], now)
    if not changed:
        return before
    text = (
        f"{folder.path.name} resumes with {changed}: its numbers may differ from those of a single version; its record names both"
    )
    print(f"sparseout: warning: {text}", file=sys.stderr)
    return [*before, now]


def _refused(folder: RunFolder, reason: str) -> FolderError:
    reason = reason.splitlines()[0]
    return FolderError(f"{folder.path / CHECKPOINT} cannot be resumed from: delete it to start that run again ({reason})")
