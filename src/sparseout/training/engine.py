"""The training engine of all studies: epochs, checkpoints, records; a run that is killed goes on to the same numbers."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import torch
from accelerate import Accelerator
from torch import Tensor

from sparseout.errors import FolderError, UserError
from sparseout.records.provenance import changes, origin
from sparseout.records.schema import LARGEST, Record
from sparseout.training.checkpoint import load_checkpoint, save_checkpoint
from sparseout.training.folders import CHECKPOINT, RunFolder
from sparseout.training.learner import Learner

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

Origin = dict[str, str | int | None]
DECIDE = 50  # steps between two decisions of several processes, which have to agree


@dataclasses.dataclass
class Position:
    """How far a run is: `step` steps of `epoch` are done.

    Attributes:
        loss, items: sum of the losses of the epoch so far, and what they are of.
        seconds: that the run has taken, at least 0, over all processes that trained it one after another.
        trained_by: the `origin` of each of these that differs from the one before.
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
        accelerator: the device, and the other processes.
        checkpoint_minutes: between two checkpoints within an epoch.
        tensorboard: write event files.
    """

    def __init__(self, accelerator: Accelerator, checkpoint_minutes: float, tensorboard: bool) -> None:
        self.accelerator = accelerator
        self.checkpoint_seconds = 60 * checkpoint_minutes
        self.tensorboard = tensorboard

    def train(self, learner: Learner, folder: RunFolder, show: Callable[[int, float, int], None]) -> tuple[Record, Position]:
        """Train a run to its end, from its last checkpoint where it has one.

        Args:
            learner: the run, as it is before its first step.
            folder: the run's files; the first process alone writes them.
            show: called after each step with the epoch, the fraction of it that is done, and how many items the step had.

        Returns:
            The run's results, and where it ended.
        """
        self._clock = time.perf_counter()
        at, steps = self._resume(learner, folder)
        with self._events(folder) as events:
            while at.epoch <= learner.config.epochs:
                if not at.step:
                    steps = learner.start_epoch(at.epoch)
                self._train_epoch(learner, folder, at, steps, show)
                metrics = {"train_loss": at.loss / at.items if at.items else None, **learner.broadcast(learner.evaluate())}
                if learner.control:
                    metrics["q"] = learner.control.q
                self._end_epoch(learner, folder, at, metrics, events)
        if learner.control:
            learner.control.target.stop()
        results = learner.broadcast(learner.results())
        if learner.control:
            results |= learner.control.results(results)
        self._tick(at)
        return results, at

    def _train_epoch(
        self, learner: Learner, folder: RunFolder, at: Position, steps: int, show: Callable[[int, float, int], None]
    ) -> None:
        """Train for what is left of the epoch."""
        losses: list[Tensor] = []
        learner.network.train()
        saved = time.perf_counter()
        for step in range(at.step, steps):
            self._seed_noise(learner, at.epoch, step)
            loss, items = learner.update(step)
            losses.append(loss)
            at.items += items
            at.step = step + 1
            show(at.epoch, at.step / steps, items)
            if self._is_due(learner, step, saved):
                self._collect(losses, at)
                self._save(learner, folder, at)
                saved = time.perf_counter()
        self._collect(losses, at)

    def _end_epoch(
        self, learner: Learner, folder: RunFolder, at: Position, metrics: Record, events: SummaryWriter | None
    ) -> None:
        """Record the epoch, then save where the next begins: killed between the two, a run repeats the epoch."""
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
        """Seed the default generator of the device, from which the noise is drawn, for this step of this process."""
        seed = learner.config.seed_of("noise", epoch, step, self.accelerator.process_index)
        if learner.device.type == "cpu":
            torch.default_generator.manual_seed(seed)
        else:
            torch.get_device_module(learner.device).manual_seed(seed)

    def _collect(self, losses: list[Tensor], at: Position) -> None:
        """Add the losses of all processes to the position's, step by step, so that the sum does not depend on when."""
        if losses:
            for loss in self.accelerator.reduce(torch.stack(losses), "sum").tolist():
                at.loss += loss
            losses.clear()

    def _is_due(self, learner: Learner, step: int, saved: float) -> bool:
        """Whether to save a checkpoint within the epoch, on which all processes agree."""
        due = time.perf_counter() - saved > self.checkpoint_seconds
        if self.accelerator.num_processes == 1:
            return due
        return step % DECIDE == DECIDE - 1 and bool(learner.broadcast(due))

    def _save(self, learner: Learner, folder: RunFolder, at: Position) -> None:
        self._tick(at)
        state = learner.state_dict()
        if self.accelerator.is_main_process:
            save_checkpoint(folder.path / CHECKPOINT, learner.config.run, {"at": dataclasses.asdict(at), "learner": state})

    def _resume(self, learner: Learner, folder: RunFolder) -> tuple[Position, int]:
        """Restore the last checkpoint, which the first process reads for all. Returns where it is, and its epoch's steps."""
        found = self._read(learner, folder) if self.accelerator.is_main_process else None
        found = learner.broadcast(found)
        if isinstance(found, FolderError):
            raise found
        state, at = found
        # What an epoch begins with is made again, and then becomes what it was in the middle of the epoch.
        steps = learner.start_epoch(at.epoch) if at.step else 0
        try:
            if state is not None:
                learner.load_state_dict(state)
        except Exception as error:  # a state of another form fails wherever the learner, the network or torch meets it
            raise _refused(folder, f"{type(error).__name__}: {error}") from error
        return at, steps

    def _read(self, learner: Learner, folder: RunFolder) -> tuple[dict[str, Any] | None, Position] | FolderError:
        """The learner's state and the position in the checkpoint, or why there is no going on from it; neither at the start."""
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
            at.trained_by = _went_on(folder, at.trained_by, now)
            return state.get("learner", {}), at
        except msgspec.ValidationError as error:
            return _refused(folder, f"at: {error}")
        except UserError as error:
            return FolderError(str(error))

    def _tick(self, at: Position) -> None:
        """Add the time since the last tick."""
        now = time.perf_counter()
        at.seconds += max(0.0, now - self._clock)  # a clock may step back
        self._clock = now

    @contextlib.contextmanager
    def _events(self, folder: RunFolder) -> Iterator[SummaryWriter | None]:
        """TensorBoard's writer, where it was asked for."""
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


def _went_on(folder: RunFolder, before: list[Origin], now: Origin) -> list[Origin]:
    """What trained a run so far, and what does now, which is said where it differs."""
    before = before or [{"sparseout": None}]  # by a version that did not record it
    changed = changes(before[-1], now)
    if not changed:
        return before
    text = f"{folder.path.name} goes on with {changed}: its numbers may differ from those of one version, and its record has both"
    print(f"sparseout: warning: {text}", file=sys.stderr)
    return [*before, now]


def _refused(folder: RunFolder, reason: str) -> FolderError:
    reason = reason.splitlines()[0]
    return FolderError(f"{folder.path / CHECKPOINT} cannot be resumed from: delete it to start that run again ({reason})")
