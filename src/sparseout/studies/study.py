"""A study: a grid of runs, each resumed where it was killed and never run twice, then a table, a figure and a report."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console
from torch import Tensor, nn

from sparseout import report
from sparseout.studies.checkpoint import save_tensors
from sparseout.studies.config import Config, UserError
from sparseout.studies.engine import Engine
from sparseout.studies.learner import Learner
from sparseout.studies.place import Place
from sparseout.studies.progress import RunBar, training_bar
from sparseout.studies.records import Record, StudyFolder

WEIGHTS = "weights.safetensors"


@dataclasses.dataclass(frozen=True)
class Study:
    """An experiment: its configuration, its data, its network, and how that is trained and judged.

    Attributes:
        config: the configuration's class; its `study` is the experiment's name.
        load: the data that a configuration asks for, from a folder or where it comes from by default; cheap when called again.
        model: a configuration's network for its data, untrained.
        learner: a run for the engine to train.
        evaluate: results of a network on the test data.
        test_batches: the inputs of the test data.
        items: what a step trains on, for the progress bar.
        presets: settings that differ from the configuration's own, by the preset's name; several values of one are an axis. The
            first preset is the default.
    """

    config: type[Config]
    load: Callable[[Any, Path | None], Any]
    model: Callable[[Any, Any], nn.Module]
    learner: Callable[[Any, Any, Any, Accelerator], Learner]
    evaluate: Callable[[Any, Any], Record]
    test_batches: Callable[[Any], Sequence[Tensor]]
    items: str
    presets: Mapping[str, Mapping[str, Any]]

    def grid(self, axes: Mapping[str, Sequence[Any]]) -> list[Config]:
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

        Where a launcher started several processes, each calls this, all train each run, and the first alone writes.

        Returns:
            The summaries of all complete runs in the folder.

        Raises:
            UserError: the folder, the device or the data cannot be used.
            KeyboardInterrupt: after the results of what was finished are written.
        """
        accelerator = place.accelerator()
        with accelerator.main_process_first():
            folder = StudyFolder(place.out, self.config.study)
        open_runs = [config for config in configs if not folder.run(config).is_complete()]
        accelerator.wait_for_everyone()
        for config in open_runs:
            with accelerator.main_process_first():
                self.load(config, place.data_dir)
        try:
            with training_bar(console) as bar:
                engine = Engine(accelerator, place.checkpoint_minutes, place.tensorboard)
                total = bar.add_task(f"{self.config.study} runs", total=len(configs), state="")
                for done, config in enumerate(open_runs, len(configs) - len(open_runs)):
                    bar.update(total, completed=done, state=f"{done} of {len(configs)} complete")
                    self._execute_run(config, self.load(config, place.data_dir), folder, engine, bar)
                    if accelerator.is_main_process:
                        folder.write_results()
                bar.update(total, completed=len(configs), state="complete")
        except KeyboardInterrupt:
            done = sum(folder.run(config).is_complete() for config in configs)
            console.print(
                f"Stopped: {done} of {len(configs)} runs are complete in {place.out}. The same command goes on from there."
            )
            raise
        finally:
            if accelerator.is_main_process:
                folder.write_results()
        accelerator.wait_for_everyone()
        records = folder.summaries()
        if accelerator.is_main_process:
            report.write(records, folder.histories(), place.out)
        return records

    def _execute_run(self, config: Any, data: Any, study: StudyFolder, engine: Engine, bar: Any) -> None:
        folder, accelerator = study.run(config), engine.accelerator
        shown = RunBar(bar, config.folder.rsplit("-", 1)[0], config.epochs, self.items)
        if accelerator.is_main_process:
            folder.open()
        with isolated(config, accelerator.device):
            network = self.model(config, data).to(accelerator.device)
            learner = self.learner(config, data, network, accelerator)
            results, seconds = engine.train(learner, folder, shown.show)
        if accelerator.is_main_process:
            save_tensors(folder.path / WEIGHTS, network.state_dict())
            folder.write_summary(results, seconds, accelerator.device, accelerator.num_processes)
        accelerator.free_memory()
        shown.close()


@contextlib.contextmanager
def isolated(config: Config, device: torch.device) -> Iterator[None]:
    """The run's thread count, and default generators seeded for its initialisation; both as before afterwards."""
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed_of("initialisation"))
        try:
            yield
        finally:
            torch.set_num_threads(threads)
