"""A grid of runs: resume those that were killed, skip those that are complete, then write a table, a figure and a report."""

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
from sparseout.runs.executors import SweepOptions, run_all
from sparseout.runs.options import RunOptions
from sparseout.runs.progress import RunBar, duration, print_left_out, training_bar
from sparseout.runs.run import Failure, OnStep, SweepEvent
from sparseout.studies.registry import STUDIES
from sparseout.training.config import Config
from sparseout.training.folders import CHECKPOINT, StudyFolder
from sparseout.training.memory import check_memory

SHARE = 0.005  # largest fraction of the time that the sweep may spend on rewriting results.jsonl


def execute(
    configs: Sequence[Config], options: RunOptions, sweep: SweepOptions, console: Console, spec: bytes | None = None
) -> tuple[list[Record], list[Failure]]:
    """Execute the runs that are not complete, show their progress, and write results, figure and report to `options.out`.

    If a launcher started several processes, each process calls this. All train each run together and only the first one writes.

    Args:
        configs: runs of one study.
        options: their data, device and output folder.
        sweep: how to execute them.
        console: shows the progress.
        spec: content of the sweep file, which is kept beside the results.

    Returns:
        The summaries of all complete runs in the folder, and the failures of this call.

    Raises:
        UserError: the folder, the device, the cluster or the data cannot be used.
        KeyboardInterrupt: Ctrl-C, after the results of the complete runs are written.
    """
    study = STUDIES[configs[0].study]
    in_this_process = sweep.jobs == 1 and sweep.ray is None
    device = options.torch_device() if sweep.ray is None else None
    accelerator = options.accelerator() if in_this_process else None
    first = accelerator is None or accelerator.is_main_process
    in_turn = accelerator.main_process_first if accelerator else contextlib.nullcontext
    with in_turn():
        folder = StudyFolder(options.out, configs[0].study)
    complete = folder.complete()
    requested = {config.folder for config in configs}
    if first:  # a requested folder that cannot be used becomes a failure below
        print_left_out(reason for name, reason in folder.left_out.items() if name not in requested)
    incomplete = [config for config in configs if config.folder not in complete]
    if accelerator:
        accelerator.wait_for_everyone()
    for config in incomplete:  # missing data or a network that is too large ends the sweep before it begins
        if device:
            with in_turn():
                check_memory(study, config, study.load(config, options.data_dir), device)
    with in_turn():
        folder.open()
    if first and spec is not None:
        folder.write_question(spec)
    failures: list[Failure] = []
    write_results = Throttled(folder.write_results, SHARE)
    try:
        with training_bar(console) as bar, run_bars(bar, study.items) as on_step:
            progress = SweepBar(bar, console, len(configs), len(configs) - len(incomplete))
            with contextlib.closing(run_all(incomplete, options, sweep, on_step)) as events:  # type: ignore[type-var]
                for event in events:
                    progress.show(event)
                    if event.failure:
                        failures.append(event.failure)
                    if first and event.ended:
                        write_results()
    except KeyboardInterrupt:
        complete = folder.complete()
        done = sum(config.folder in complete for config in configs)
        line = f"Stopped: {done} of {len(configs)} runs are complete in {options.out}. The same command resumes the others."
        console.print(line, soft_wrap=True)
        raise KeyboardInterrupt(line) from None
    finally:
        if first:
            folder.write_results()
    if accelerator:
        accelerator.wait_for_everyone()
    records = folder.summaries()
    if first:
        histories = folder.histories()
        left_out = itertools.chain(folder.left_out.values(), histories.left_out.values())
        report.write(records, histories, options.out, left_out)
        print_left_out(histories.left_out.values())
    return records, failures


class Throttled:
    """Calls `function` when it is called, but skips calls so that `function` takes at most `share` of the time."""

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


class SweepBar:
    """The progress bar of a sweep, with its counts and the time left. Without a terminal, it prints a line for each run."""

    def __init__(self, bar: Progress, console: Console, total: int, done: int) -> None:
        self.bar = bar
        self.console = console
        self.total = total
        self.done = done
        self.failed = 0
        self.task = bar.add_task("runs", total=total, completed=done, state="")

    def show(self, event: SweepEvent) -> None:
        """Show the counts after an event."""
        ended, failure = event.ended, event.failure
        if ended:
            self.done += not failure
            self.failed += bool(failure)
        state = f"{self.done} of {self.total} done, {event.running} running, {self.failed} failed"
        self.bar.update(self.task, completed=self.done + self.failed, state=state)
        if ended and not self.console.is_terminal:
            name = f"{ended.folder} failed: {failure.reason}" if failure else ended.folder
            self.console.print(f"{state}: {name}", soft_wrap=True)


@contextlib.contextmanager
def run_bars(bar: Progress, items: str) -> Iterator[Callable[[Config], OnStep]]:
    """Yield a function that replaces the bar of the previous run by a bar of the given run, and returns its update."""
    shown: list[RunBar] = []

    def show(config: Config) -> OnStep:
        while shown:
            shown.pop().close()
        shown.append(RunBar(bar, config.folder.rsplit("-", 1)[0], config.to_dict().get("epochs", 1), items))
        return shown[-1].show

    yield show
    while shown:
        shown.pop().close()


def print_plan(configs: Sequence[Config], options: RunOptions, sweep: SweepOptions, console: Console) -> None:
    """Print the runs with their states, and estimate the time that the incomplete ones take. Write nothing.

    Raises:
        UserError: the output folder holds something else.
    """
    folder = StudyFolder(options.out, configs[0].study)
    complete = folder.complete()
    print_left_out(folder.left_out.values())
    rows = []
    for config in configs:
        state = "begun" if is_file(options.out / config.folder / CHECKPOINT) else "to do"
        state = "left out" if config.folder in folder.left_out else state
        rows.append([config.folder, "complete" if config.folder in complete else state])
    console.print(rich_table(["run", "state"], rows, caption=""))
    seconds = [record["seconds"] for record in complete.values()]
    done, left_out = (sum(state == name for _, state in rows) for name in ("complete", "left out"))
    left = len(configs) - done - left_out
    text = f"{len(configs)} runs: {done} complete, {left} to do" + (f", {left_out} left out" if left_out else "")
    if left and seconds:
        mean = statistics.fmean(seconds)
        total = duration(left * mean / min(sweep.jobs, left))
        at_a_time = f"{sweep.jobs} at a time" if sweep.jobs > 1 else "one after another"
        text += f", about {total} {at_a_time}, at {duration(mean)} per run, the mean of the complete runs"
    elif left:
        text += "; no run is complete, so there is no estimate of the time"
    console.print(f"{text}.", soft_wrap=True)


def print_failures(failures: Sequence[Failure], console: Console) -> None:
    """Print each failed run with the reason and the command that repeats it."""
    for failure in failures:
        text = f"Failed: {failure.config.folder}: {failure.reason}\n  {failure.command}"
        console.print(text, soft_wrap=True)
    if failures:
        console.print(f"{len(failures)} runs failed. The same command runs only these again.")
