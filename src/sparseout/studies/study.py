"""A study: a grid of runs, each resumed where it was killed and never run twice, then a table, a figure and a report."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn

from sparseout import report
from sparseout.studies.checkpoint import TrainingState, save_tensors
from sparseout.studies.config import Config, UserError
from sparseout.studies.records import Record, RunFolder, StudyFolder

CHECKPOINT = "checkpoint.safetensors"
WEIGHTS = "weights.safetensors"


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a study runs: none of it changes its numbers' meaning, so none of it is in a run's name.

    Attributes:
        out: folder for the runs, the results and the report
        data_dir: folder with the data set's files; by default it comes from the hub, or is bundled
        device: 'cpu', 'cuda' or any other that torch knows; 'auto' is the accelerator if there is one
    """

    out: Path
    data_dir: Path | None = None
    device: str = "auto"

    def torch_device(self) -> torch.device:
        """The device, checked by putting a number on it."""
        try:
            if self.device == "auto":
                return torch.device("cuda" if torch.cuda.is_available() else "cpu")
            return torch.zeros(1, device=self.device).device
        except (RuntimeError, AssertionError) as error:
            raise UserError(f"device {self.device!r} cannot be used: {str(error).splitlines()[0]}") from error


@dataclasses.dataclass
class Training:
    """One run in progress: what a training loop needs beside its configuration.

    Attributes:
        folder: the run's files.
        device: where to train.
        on_epoch: called after each epoch with its number.
    """

    folder: RunFolder
    device: torch.device
    on_epoch: Callable[[int], None]
    seconds: float = 0.0

    def epochs(self, state: TrainingState, epochs: int) -> Iterator[int]:
        """The epochs that are left, from 1: all of them, or those after the checkpoint, from which `state` is restored."""
        checkpoint = self.folder.path / CHECKPOINT
        done = 0
        if checkpoint.exists():
            progress = state.load(checkpoint)
            done, self.seconds = int(progress["epoch"]), progress["seconds"]
        self.folder.keep_epochs(done)
        return iter(range(done + 1, epochs + 1))

    def end_epoch(self, state: TrainingState, epoch: int, metrics: Record, seconds: float) -> None:
        """Record an epoch that took `seconds`, and save what the next one depends on."""
        self.seconds += seconds
        self.folder.add_epoch({"epoch": epoch, **metrics, "seconds": round(seconds, 3)})
        state.save(self.folder.path / CHECKPOINT, epoch=epoch, seconds=self.seconds)
        self.on_epoch(epoch)


@dataclasses.dataclass(frozen=True)
class Study:
    """An experiment: its configuration and its training.

    Attributes:
        config: the configuration's class; its `study` is the experiment's name.
        load: the data that a configuration asks for, from a folder or where it comes from by default; cheap when called again.
        model: a configuration's network for its data, untrained.
        train: trains one run on its data and returns the trained model and its results.
        test_batches: the inputs of the data that a trained model is judged on.
        axes: what is studied unless asked otherwise: settings with several values.
    """

    config: type[Config]
    load: Callable[[Any, Path | None], Any]
    model: Callable[[Any, Any], nn.Module]
    train: Callable[[Any, Any, Training], tuple[nn.Module, Record]]
    test_batches: Callable[[Any], Sequence[Tensor]]
    axes: dict[str, tuple[Any, ...]]

    def grid(self, axes: dict[str, Sequence[Any]]) -> list[Config]:
        """The runs of each combination of the axes' values, equal ones once.

        Raises:
            UserError: a value is out of its range, or an axis has none.
        """
        for name, values in axes.items():
            if not values:
                raise UserError(f"{name} needs at least one value")
        try:
            runs = [self.config(**dict(zip(axes, values, strict=True))) for values in itertools.product(*axes.values())]
        except (TypeError, ValueError) as error:
            raise UserError(str(error)) from error
        return list(dict.fromkeys(runs))

    def execute(self, configs: Sequence[Config], place: Place, console: Console) -> list[Record]:
        """Run what is not complete yet, show the progress, and leave results, figure and report in `place.out`.

        Returns:
            The summaries of all complete runs in the folder.

        Raises:
            UserError: the folder, the device or the data cannot be used.
            KeyboardInterrupt: after the results of what was finished are written.
        """
        device = place.torch_device()
        folder = StudyFolder(place.out, self.config.study)
        open_runs = [config for config in configs if not folder.run(config).is_complete()]
        for config in open_runs:
            self.load(config, place.data_dir)
        try:
            with progress_bar(console) as progress:
                total = progress.add_task(
                    f"{self.config.study} runs", total=len(configs), completed=len(configs) - len(open_runs)
                )
                for config in open_runs:
                    self._execute_run(config, self.load(config, place.data_dir), folder.run(config), device, progress)
                    progress.advance(total)
                    folder.write_results()
        except KeyboardInterrupt:
            done = sum(folder.run(config).is_complete() for config in configs)
            console.print(
                f"Stopped: {done} of {len(configs)} runs are complete in {place.out}. The same command goes on from there."
            )
            raise
        finally:
            records = folder.write_results()
        report.write(records, folder.histories(), place.out)
        return records

    def _execute_run(self, config: Any, data: Any, folder: RunFolder, device: torch.device, progress: Progress) -> None:
        task = progress.add_task(config.folder.rsplit("-", 1)[0], total=config.epochs)

        def on_epoch(epoch: int) -> None:
            progress.update(task, completed=epoch)

        folder.open()
        with _isolated(config, device):
            training = Training(folder, device, on_epoch)
            model, results = self.train(config, data, training)
        save_tensors(folder.path / WEIGHTS, model.state_dict())
        folder.write_summary(results, training.seconds, device)
        (folder.path / CHECKPOINT).unlink(missing_ok=True)
        progress.remove_task(task)


@contextlib.contextmanager
def _isolated(config: Config, device: torch.device) -> Iterator[None]:
    """The run's thread count, and default generators seeded for its initialisation; both as before afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed_of("initialisation"))
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def progress_bar(console: Console) -> Progress:
    """A bar for tasks of several parts, with the time that passed and that is left."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)
