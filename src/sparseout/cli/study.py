"""The commands `study` and `sweep`: a grid of runs from flags, or from a file."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import tyro
from rich.console import Console

from sparseout import report
from sparseout.records.tables import rich_table
from sparseout.runs.contenders import Tuning
from sparseout.runs.executors import CHILD, SweepOptions, run_as_child
from sparseout.runs.options import RunOptions
from sparseout.runs.progress import terminal
from sparseout.runs.spec import read_spec
from sparseout.runs.sweep import execute, print_failures, print_plan
from sparseout.runs.tuning import execute_tuned, print_tuned_plan
from sparseout.studies.registry import STUDIES, find_study, is_source
from sparseout.training.config import Config, hints
from sparseout.training.study import Study

RunFlags = Annotated[tyro.conf.OmitArgPrefixes[RunOptions], tyro.conf.arg(name="run")]  # the name heads them in the help
SweepFlags = Annotated[tyro.conf.OmitArgPrefixes[SweepOptions], tyro.conf.arg(name="sweep")]
NAMED_LIKE_FILE = RunOptions(Path("runs/NAME"))  # the default of a sweep, whose output folder has the file's name
ONE_BY_ONE = SweepOptions()


def study_names(arguments: Sequence[str]) -> list[str]:
    """Return the names of the commands `sparseout study NAME`: the built-in studies, and one of the user on the command line.

    >>> study_names(["study", "lab.rings:STUDY", "--q", "2"])
    ['lab.rings:STUDY', 'autoencoder', 'image', 'language', 'glm']
    """
    return [*(name for name in arguments[1:2] if arguments[0] == "study" and is_source(name)), *STUDIES]


def study_app(names: Sequence[str]) -> tyro.extras.SubcommandApp:
    """Return the commands `sparseout study NAME` for these names; a study of the user is imported.

    Raises:
        UserError: that study cannot be imported.
    """
    app = tyro.extras.SubcommandApp()
    for name in names:
        app.command(name=name)(_study_command(find_study(name)))
    return app


def sweep(
    file: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="SWEEP.toml")]],
    run_options: RunFlags = NAMED_LIKE_FILE,
    sweep_options: SweepFlags = ONE_BY_ONE,
) -> int:
    """Run a grid of runs that a file describes.

    Args:
        file: the study and its settings, each a value or a list of values
    """
    spec = read_spec(file)
    if run_options.out is NAMED_LIKE_FILE.out:
        run_options = dataclasses.replace(run_options, out=Path("runs") / file.stem)
    if spec.tuning:
        return _execute_tuned(spec.study, spec.tuning, run_options, sweep_options, spec.content)
    return _execute(spec.study, spec.configs, run_options, sweep_options, spec.content)


def _study_command(study: Study) -> type:
    """Return a dataclass whose fields are the flags of `sparseout study NAME` and whose call executes the runs.

    It is a subclass of the study's configuration, so that the docstrings of that class explain the flags. Each setting becomes
    a tuple of values. A preset changes the values of those settings that have no flag on the command line.
    """
    defaults = study.axes(study.default_preset)

    def call(self: Any) -> int:
        # The parser returns the very object that is the default for a flag that is not given.
        given = {name: getattr(self, name) for name, default in defaults.items() if getattr(self, name) is not default}
        configs = study.grid(study.axes(self.preset) | given)
        if os.environ.get(CHILD):
            return run_as_child(study, configs[0], self.run_options)
        return _execute(study, configs, self.run_options, self.sweep_options)

    preset = tyro.conf.arg(help="settings to start from; each flag changes one of them", metavar="|".join(study.presets))
    run_options = RunOptions(Path("runs") / study.config.study)
    fields = [
        *((name, _axis(study, name), dataclasses.field(default=default)) for name, default in defaults.items()),
        ("preset", Annotated[str, preset], study.default_preset),
        ("run_options", RunFlags, dataclasses.field(default=run_options)),
        ("sweep_options", SweepFlags, dataclasses.field(default=ONE_BY_ONE)),
    ]
    generated = f"{study.config.__name__}("  # how the documentation starts that a dataclass gives itself
    documentation = study.config.__doc__ or ""
    if documentation.startswith(generated):
        documentation = f"Train runs of the study {study.config.study}."
    namespace = {"__doc__": documentation, "__call__": call, "__post_init__": lambda self: None}
    return dataclasses.make_dataclass(study.config.__name__, fields, bases=(study.config,), namespace=namespace, frozen=True)


def _axis(study: Study, name: str) -> Any:
    """Return the type of the flag for a setting: a tuple of values, with the defaults of all presets in its help."""
    hint: Any = hints(study.config)[name]  # type: ignore[arg-type]
    values = get_args(hint) if get_origin(hint) is Literal else ()
    hint = str if values else hint  # the configuration refuses an unknown word in one line, as it does every other bad value
    shown = {preset: " ".join(map(str, study.axes(preset)[name])) for preset in study.presets}
    default = shown.pop(study.default_preset)
    others = "".join(f"; {preset}: {value}" for preset, value in shown.items() if value != default)
    metavar = f"{'|'.join(values) or hint.__name__.upper()} ..."
    return Annotated[tuple[hint, ...], tyro.conf.arg(metavar=metavar, help_behavior_hint=f"(default: {default}{others})")]


def _execute(
    study: Study, configs: Sequence[Config], run_options: RunOptions, sweep_options: SweepOptions, spec: bytes | None = None
) -> int:
    """Execute the runs, print the results, and return the exit code: 1 if a run failed."""
    console = _console(run_options, sweep_options)
    if sweep_options.dry_run:
        print_plan(study, configs, run_options, sweep_options, console)
        return 0
    records, failures = execute(study, configs, run_options, sweep_options, console, spec)
    console.print(report.table(records))
    console.print(f"Report: {run_options.out / 'report.html'}\nFigure: {run_options.out / 'sparsity.png'}", soft_wrap=True)
    print_failures(failures, console)
    return int(bool(failures))


def _execute_tuned(study: Study, tuning: Tuning, run_options: RunOptions, sweep_options: SweepOptions, spec: bytes) -> int:
    """Execute both stages, print the results, and return the exit code: 1 if a run failed or a contender has no choice."""
    console = _console(run_options, sweep_options)
    if sweep_options.dry_run:
        print_tuned_plan(study, tuning, run_options, sweep_options, console)
        return 0
    records, failures, choice = execute_tuned(study, tuning, run_options, sweep_options, console, spec)
    console.print(report.table(records, choice))
    console.print(rich_table(*report.tuning_table(choice), caption=""))
    for line in report.tuning_sentences(choice, records):
        console.print(line, soft_wrap=True)
    for name in ("report.html", "sparsity.png", "tuning.png"):
        console.print(f"{name}: {run_options.out / name}", soft_wrap=True)
    print_failures(failures, console)
    return int(bool(failures) or any(contender["chosen"] is None for contender in choice["contenders"]))


def _console(run_options: RunOptions, sweep_options: SweepOptions) -> Console:
    """Return the terminal, after checking the options. Of several processes, only the first one prints."""
    run_options.check()
    sweep_options.check()
    if sweep_options.ray is None:
        run_options.torch_device()
    return terminal(quiet=not run_options.is_first_process())
