"""A grid of runs: resume those that were killed, skip those that are complete, then write a table, a figure and a report."""

from __future__ import annotations

import contextlib
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console

from sparseout import report
from sparseout.records.choice import CHOICE
from sparseout.records.files import folders_with, write_atomic
from sparseout.records.json_lines import to_json
from sparseout.records.schema import Record
from sparseout.records.tables import rich_table
from sparseout.runs.executors import SweepOptions, run_all
from sparseout.runs.known import known_records, take_over
from sparseout.runs.options import RunOptions
from sparseout.runs.progress import RunBars, SweepBar, duration, print_left_out, training_bar
from sparseout.runs.run import Failure, SweepEvent, failure_of
from sparseout.training.config import Config
from sparseout.training.folders import CHECKPOINT, StudyFolder
from sparseout.training.network_check import check_network
from sparseout.training.run_progress import RunProgress
from sparseout.training.study import Study

SHARE = 0.005  # largest fraction of the time that the sweep may spend on rewriting results.jsonl


def execute(
    study: Study,
    configs: Sequence[Config],
    options: RunOptions,
    sweep: SweepOptions,
    console: Console,
    spec: bytes | None = None,
    choice: Record | None = None,
) -> tuple[list[Record], list[Failure]]:
    """Execute the runs that are not complete, show their progress, and write results, figure and report to `options.out`.

    If a launcher started several processes, each process calls this. All train each run together and only the first one writes.

    Args:
        study: the study of the runs.
        configs: the runs.
        options: their data, device and output folder.
        sweep: how to execute them.
        console: shows the progress.
        spec: content of the sweep file, which is kept beside the results.
        choice: what the tune stage before these runs chose, which is kept beside the results.

    Returns:
        The summaries of all complete runs in the folder, and the failures of this call.

    Raises:
        UserError: the folder, the device, the cluster, the data or a file of known results cannot be used.
        KeyboardInterrupt: Ctrl-C, after the results of the complete runs are written.
    """
    folder, failures = train(study, configs, options, sweep, console, spec, choice)
    records = folder.summaries()
    if options.is_first_process():
        histories = folder.histories()
        left_out = itertools.chain(folder.left_out.values(), histories.left_out.values())
        report.write(records, histories, options.out, left_out, choice)
        print_left_out(histories.left_out.values())
    return records, failures


def train(
    study: Study,
    configs: Sequence[Config],
    options: RunOptions,
    sweep: SweepOptions,
    console: Console,
    spec: bytes | None = None,
    choice: Record | None = None,
) -> tuple[StudyFolder, list[Failure]]:
    """Do the same as `execute`, but write no figure and no report. Return the folder and the failures."""
    in_this_process = sweep.jobs == 1 and sweep.ray is None
    device = options.torch_device() if sweep.ray is None else None
    accelerator = options.accelerator() if in_this_process else None
    first = options.is_first_process()
    in_turn = accelerator.main_process_first if accelerator else contextlib.nullcontext
    wait = accelerator.wait_for_everyone if accelerator else lambda: None
    known = known_records(sweep.known, configs, sweep.known_any_version)
    with in_turn():
        folder = StudyFolder(options.out, study.config.study)
    complete = folder.complete()
    requested = {config.folder for config in configs}
    if first:
        print_left_out(reason for name, reason in folder.left_out.items() if name not in requested)
    faults = folder.mislabelled() | folder.left_out
    unusable = [config for config in configs if config.folder in faults]
    open_ = [config for config in configs if config.folder not in complete and config.folder not in faults]
    incomplete = [config for config in open_ if config.run not in known]
    wait()
    for config in incomplete:  # missing data or a network that the device cannot train ends the sweep before it begins
        if device:
            with in_turn():
                check_network(study, config, study.load(config, options.data_dir), device)
    with in_turn():
        folder.open()
    if first and spec is not None:
        folder.write_spec(spec)
    if first and choice is not None:
        write_atomic(options.out / CHOICE, to_json(choice).encode())
    for config in open_ if first else ():
        if config.run in known:
            take_over(folder.run(config), known[config.run])
    failures = [failure_of(config, options, faults[config.folder]) for config in unusable]
    try:
        failures += _run_incomplete(study, configs, incomplete, failures, folder, options, sweep, console)
    except KeyboardInterrupt:
        complete = folder.complete()
        done = sum(config.folder in complete for config in configs)
        line = f"Stopped: {done} of {len(configs)} runs are complete in {options.out}. The same command resumes the others."
        console.print(line, soft_wrap=True)
        raise KeyboardInterrupt(line) from None
    finally:
        if first:
            folder.write_results()
    wait()
    return folder, failures


def _run_incomplete(
    study: Study,
    configs: Sequence[Config],
    incomplete: Sequence[Config],
    unusable: Sequence[Failure],
    folder: StudyFolder,
    options: RunOptions,
    sweep: SweepOptions,
    console: Console,
) -> list[Failure]:
    """Execute the incomplete runs of `configs`, show their progress, and return their failures."""
    failures = []
    write_results = Throttled(folder.write_results, SHARE)
    with training_bar(console) as bar:
        run_bars = RunBars(bar, study.items, several=sweep.jobs > 1 or sweep.ray is not None)

        def on_progress(config: Config, progress: RunProgress) -> None:
            run_bars.update(config, progress)
            sweep_bar.update(run_bars.runs_done)

        with contextlib.closing(run_all(study, incomplete, options, sweep, on_progress)) as events:  # type: ignore[type-var]
            sweep_bar = SweepBar(bar, console, len(configs), len(configs) - len(incomplete) - len(unusable))
            for failure in unusable:
                sweep_bar.show(SweepEvent(0, ended=failure.config, failure=failure), runs_done=0)
            for event in events:
                run_bars.show(event)
                sweep_bar.show(event, run_bars.runs_done)
                if event.failure:
                    failures.append(event.failure)
                if event.ended and options.is_first_process():
                    write_results()
    return failures


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


def print_plan(study: Study, configs: Sequence[Config], options: RunOptions, sweep: SweepOptions, console: Console) -> None:
    """Print the runs with their states, and estimate the time that the incomplete ones take. Write nothing.

    Raises:
        UserError: the output folder holds something else.
    """
    folder = StudyFolder(options.out, study.config.study)
    known = known_records(sweep.known, configs, sweep.known_any_version)
    complete, begun = folder.complete(), folders_with(options.out, CHECKPOINT)
    print_left_out(folder.left_out.values())
    rows = []
    for config in configs:
        state = "known" if config.run in known else "begun" if config.folder in begun else "to do"
        state = "left out" if config.folder in folder.left_out else state
        rows.append([config.folder, "complete" if config.folder in complete else state])
    console.print(rich_table(["run", "state"], rows, caption=""))
    seconds = [record["seconds"] for record in (*complete.values(), *known.values())]
    counts = {name: sum(state == name for _, state in rows) for name in ("complete", "known", "left out")}
    left = len(configs) - sum(counts.values())
    more = "".join(f", {counts[name]} {name}" for name in ("known", "left out") if counts[name])
    text = f"{len(configs)} runs: {counts['complete']} complete, {left} to do{more}"
    console.print(f"{text}{estimated_time(left, seconds, sweep)}.", soft_wrap=True)


def estimated_time(left: int, seconds: Sequence[float], sweep: SweepOptions) -> str:
    """Return the end of a sentence: the time that `left` runs take, if complete runs took these `seconds`."""
    if not left:
        return ""
    if not seconds:
        return "; no run is complete, so there is no estimate of the time"
    mean = statistics.fmean(seconds)
    total = duration(left * mean / min(sweep.jobs, left))
    at_a_time = f"{sweep.jobs} at a time" if sweep.jobs > 1 else "one after another"
    return f", about {total} {at_a_time}, at {duration(mean)} per run, the mean of the complete runs"


def print_failures(failures: Sequence[Failure], console: Console) -> None:
    """Print each failed run with the reason and the command that repeats it."""
    for failure in failures:
        text = f"Failed: {failure.config.folder}: {failure.reason}\n  {failure.command}"
        console.print(text, soft_wrap=True)
    if failures:
        console.print(f"{len(failures)} runs failed. The same command runs only these again.")
