"""A grid of runs, each resumed where it was killed and never run twice, then a table, a figure and a report."""

from __future__ import annotations

import contextlib
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.progress import Progress

from sparseout import report
from sparseout.records.files import is_file
from sparseout.records.schema import Record
from sparseout.records.tables import rich_table
from sparseout.runs.executors import SweepOptions
from sparseout.runs.options import RunOptions
from sparseout.runs.progress import RunBar, duration, say_left_out, training_bar
from sparseout.runs.run import Failure, Show
from sparseout.studies.registry import STUDIES
from sparseout.training.config import Config
from sparseout.training.folders import CHECKPOINT, StudyFolder
from sparseout.training.memory import check_memory

SHARE = 0.005  # of the time, that rewriting the view of the results may take while the sweep runs


def execute(
    configs: Sequence[Config], place: RunOptions, how: SweepOptions, console: Console, question: bytes | None = None
) -> tuple[list[Record], list[Failure]]:
    """Run what is not complete yet, show the progress, and leave results, figure and report in `place.out`.

    Where a launcher started several processes, each calls this, all train each run, and the first alone writes.

    Args:
        configs: runs of one study.
        place: where they run.
        how: they are executed.
        console: to show the progress on.
        question: the file that asked for these runs, which is kept beside their results.

    Returns:
        The summaries of all complete runs in the folder, and what failed now.

    Raises:
        UserError: the folder, the device, the cluster or the data cannot be used.
        KeyboardInterrupt: after the results of what was finished are written.
    """
    study = STUDIES[configs[0].study]
    here = how.jobs == 1 and how.ray is None
    device = place.torch_device() if how.ray is None else None
    accelerator = place.accelerator() if here else None
    first = accelerator is None or accelerator.is_main_process
    in_turn = accelerator.main_process_first if accelerator else contextlib.nullcontext
    with in_turn():
        folder = StudyFolder(place.out, configs[0].study)
    complete = folder.complete()
    asked = {config.folder for config in configs}
    if first:  # what is asked for and cannot be used is among the failures
        say_left_out(reason for name, reason in folder.left_out.items() if name not in asked)
    open_runs = [config for config in configs if config.folder not in complete]
    if accelerator:
        accelerator.wait_for_everyone()
    for config in open_runs:  # a mistake in where the data is, or in a size, ends the sweep before it begins
        if device:
            with in_turn():
                check_memory(study, config, study.load(config, place.data_dir), device)
    with in_turn():
        folder.open()
    if first and question is not None:
        folder.write_question(question)
    failures: list[Failure] = []
    view = Throttled(folder.write_results, SHARE)
    try:
        with training_bar(console) as bar, run_bars(bar, study.items) as shown:
            progress = Sweep(bar, console, len(configs), len(configs) - len(open_runs))
            with contextlib.closing(how.runs(open_runs, place, shown)) as steps:  # type: ignore[type-var]
                for step in steps:
                    progress.show(step.running, step.ended, step.failure)
                    if step.failure:
                        failures.append(step.failure)
                    if first and step.ended:
                        view()
    except KeyboardInterrupt:
        complete = folder.complete()
        done = sum(config.folder in complete for config in configs)
        said = f"Stopped: {done} of {len(configs)} runs are complete in {place.out}. The same command goes on from there."
        console.print(said, soft_wrap=True)
        raise KeyboardInterrupt(said) from None
    finally:
        if first:
            folder.write_results()
    if accelerator:
        accelerator.wait_for_everyone()
    records = folder.summaries()
    if first:
        histories = folder.histories()
        left_out = itertools.chain(folder.left_out.values(), histories.left_out.values())
        report.write(records, histories, place.out, left_out)
        say_left_out(histories.left_out.values())
    return records, failures


class Throttled:
    """Calls `function` when it is called, unless that would take more than `share` of the time."""

    def __init__(self, function: Callable[[], Any], share: float) -> None:
        self.function = function
        self.share = share
        self._next = 0.0

    def __call__(self) -> None:
        start = time.perf_counter()
        if start >= self._next:
            self.function()
            end = time.perf_counter()
            self._next = end + (end - start) / self.share


class Sweep:
    """The bar of a sweep: what is done, runs and failed, and the time left; a line for each run where there is no terminal."""

    def __init__(self, bar: Progress, console: Console, total: int, done: int) -> None:
        self.bar = bar
        self.console = console
        self.total = total
        self.done = done
        self.failed = 0
        self.task = bar.add_task("runs", total=total, completed=done, state="")

    def show(self, running: int, ended: Config | None, failure: Failure | None) -> None:
        """What is running now, and what has ended since."""
        if ended:
            self.done += not failure
            self.failed += bool(failure)
        state = f"{self.done} of {self.total} done, {running} running, {self.failed} failed"
        self.bar.update(self.task, completed=self.done + self.failed, state=state)
        if ended and not self.console.is_terminal:
            name = f"{ended.folder} failed: {failure.reason}" if failure else ended.folder
            self.console.print(f"{state}: {name}", soft_wrap=True)


@contextlib.contextmanager
def run_bars(bar: Progress, items: str) -> Iterator[Callable[[Config], Show]]:
    """A bar for the run that is running, in place of the one of the run before."""
    shown: list[RunBar] = []

    def show(config: Config) -> Show:
        while shown:
            shown.pop().close()
        shown.append(RunBar(bar, config.folder.rsplit("-", 1)[0], config.to_dict().get("epochs", 1), items))
        return shown[-1].show

    yield show
    while shown:
        shown.pop().close()


def plan(configs: Sequence[Config], place: RunOptions, how: SweepOptions, console: Console) -> None:
    """Print the runs, which of them are complete, and an estimate of the time that the others take; nothing is written.

    Raises:
        UserError: the folder holds something else.
    """
    folder = StudyFolder(place.out, configs[0].study)
    complete = folder.complete()
    say_left_out(folder.left_out.values())
    rows = []
    for config in configs:
        state = "begun" if is_file(place.out / config.folder / CHECKPOINT) else "to do"
        state = "left out" if config.folder in folder.left_out else state
        rows.append([config.folder, "complete" if config.folder in complete else state])
    console.print(rich_table(["run", "state"], rows, caption=""))
    seconds = [record["seconds"] for record in complete.values()]
    done, bad = (sum(state == name for _, state in rows) for name in ("complete", "left out"))
    left = len(configs) - done - bad
    text = f"{len(configs)} runs: {done} complete, {left} to do" + (f", {bad} left out" if bad else "")
    if left and seconds:
        each = statistics.fmean(seconds)
        total = duration(left * each / min(how.jobs, left))
        at_a_time = f"{how.jobs} at a time" if how.jobs > 1 else "one after another"
        text += f", about {total} {at_a_time}, at {duration(each)} a run as in those that are complete"
    elif left:
        text += "; none is complete in the folder, so there is no estimate of the time"
    console.print(f"{text}.", soft_wrap=True)


def tell(failures: Sequence[Failure], console: Console) -> None:
    """Print what failed, why, and the command that repeats it."""
    for failure in failures:
        text = f"Failed: {failure.config.folder}: {failure.reason}\n  {failure.command}"
        console.print(text, soft_wrap=True)
    if failures:
        console.print(f"{len(failures)} runs failed. The same command tries them again, and nothing else.")
