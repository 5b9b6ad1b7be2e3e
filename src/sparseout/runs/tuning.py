"""A tuned sweep: the tune stage, the choice that its records make, and the test stage."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from rich.console import Console

from sparseout.errors import UserError
from sparseout.records.schema import Record
from sparseout.runs.contenders import Tuning
from sparseout.runs.executors import SweepOptions
from sparseout.runs.known import known_records
from sparseout.runs.options import RunOptions
from sparseout.runs.run import Failure
from sparseout.runs.sweep import estimated_time, execute, print_plan, train
from sparseout.training.config import Config
from sparseout.training.folders import TUNE, StudyFolder
from sparseout.training.study import Study


def execute_tuned(
    study: Study, tuning: Tuning, options: RunOptions, sweep: SweepOptions, console: Console, spec: bytes
) -> tuple[list[Record], list[Failure], Record]:
    """Execute the tuning runs in the folder `tune` of `options.out`, choose, and execute the test runs of the chosen candidates.

    The choice depends on the records alone, so a sweep that was killed makes the same choice when it resumes.

    Args:
        study: the study of the runs.
        tuning: the contenders and their candidates.
        options: data, device and output folder of the runs.
        sweep: how to execute them.
        console: shows the progress.
        spec: content of the sweep file, which is kept beside the results.

    Returns:
        The summaries of the test runs, the failures of both stages, and the choice.

    Raises:
        UserError: as `execute`; or the folder holds runs that are not test runs of the chosen candidates.
        KeyboardInterrupt: Ctrl-C, after the results of the complete runs are written.
    """
    _check_tests(options, study, tuning.possible_tests)
    known_records(sweep.known, tuning.possible_tests, sweep.known_any_version)  # a mistake ends the sweep before it begins
    configs = tuning.configs
    console.print(f"Tune stage: {len(configs)} runs of {len(tuning.contenders)} contenders.", soft_wrap=True)
    folder, failures = train(study, configs, _tune_options(options), sweep, console)
    choice = _choice(tuning, folder)
    tests = tuning.chosen_tests(choice)
    _check_tests(options, study, [*tests, *_waiting_tests(tuning, choice)])
    console.print(f"Test stage: {len(tests)} runs.", soft_wrap=True)
    records, test_failures = execute(study, tests, options, sweep, console, spec, choice)
    return records, failures + test_failures, choice


def print_tuned_plan(study: Study, tuning: Tuning, options: RunOptions, sweep: SweepOptions, console: Console) -> None:
    """Print the runs of both stages with their states, and estimate the time that the incomplete ones take. Write nothing.

    Raises:
        UserError: the output folder holds something else.
    """
    console.print("Tune stage")
    print_plan(study, tuning.configs, _tune_options(options), sweep, console)
    folder = StudyFolder(_tune_options(options).out, study.config.study)
    choice = _choice(tuning, folder)
    console.print("\nTest stage")
    if tests := tuning.chosen_tests(choice):
        print_plan(study, tests, options, sweep, console)
    waiting = [contender for contender in choice["contenders"] if contender["missing"]]
    if waiting:
        count = len(waiting) * len(tuning.test_seeds)
        time = estimated_time(count, [record["seconds"] for record in folder.complete().values()], sweep)
        names = ", ".join(contender["name"] for contender in waiting)
        console.print(f"{count} runs after the tune stage of {names}{time}.", soft_wrap=True)


def _tune_options(options: RunOptions) -> RunOptions:
    return dataclasses.replace(options, out=options.out / TUNE)


def _choice(tuning: Tuning, folder: StudyFolder) -> Record:
    return tuning.choose({str(record["run"]): record for record in folder.summaries()})


def _waiting_tests(tuning: Tuning, choice: Record) -> list[Config]:
    """Return the test runs that a contender without a choice may already have, from a sweep with fewer tuning runs."""
    waiting = {found["name"] for found in choice["contenders"] if found["missing"]}
    contenders = tuple(contender for contender in tuning.contenders if contender.name in waiting)
    return dataclasses.replace(tuning, contenders=contenders).possible_tests


def _check_tests(options: RunOptions, study: Study, allowed: Sequence[Config]) -> None:
    """Raise if the output folder holds another run: its records could be taken for those of a chosen candidate."""
    found = StudyFolder(options.out, study.config.study).complete()
    names = {config.folder for config in allowed}
    others = sorted(name for name in found if name not in names)
    if others:
        raise UserError(
            f"--out must hold test runs of the chosen settings alone, got {others[0]}"
            f"{f' and {len(others) - 1} more' if len(others) > 1 else ''}: give a new --out, with --known "
            f"{options.out / TUNE / 'results.jsonl'} for the tuning runs that are complete"
        )
