"""The commands `study` and `sweep`: a grid of runs from flags, or from a file."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import inspect
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import docstring_parser
import tyro

from sparseout import report
from sparseout.records.files import Location
from sparseout.runs.executors import SweepOptions
from sparseout.runs.options import RunOptions, location
from sparseout.runs.progress import terminal
from sparseout.runs.spec import read_spec
from sparseout.runs.sweep import execute, plan, tell
from sparseout.studies.registry import STUDIES
from sparseout.training.config import Config, hints
from sparseout.training.study import Study

METAVARS = {
    "out": "DIR|URL",
    "data_dir": "DIR",
    "device": "NAME",
    "checkpoint_minutes": "FLOAT",
    "jobs": "INT",
    "ray": "auto|HOST:PORT",
}


def study_app(arguments: Sequence[str], wrap: Callable[[Any], Any]) -> tyro.extras.SubcommandApp:
    """The commands `sparseout study NAME`, each in `wrap`, with the defaults of the preset that `arguments` ask for."""
    app = tyro.extras.SubcommandApp()
    for name, study in STUDIES.items():
        app.command(wrap(_study(study, _preset(study, arguments if name in arguments else ()))), name=name)
    return app


def sweep_command() -> Any:
    """The command `sparseout sweep SWEEP.toml`: every flag of `study` that changes no number, and the file for the others."""
    argument = tyro.conf.arg(help="the study, and its settings: each a value or a list of values", metavar="SWEEP.toml")
    positional = Annotated[tyro.conf.Positional[Path], argument]
    file = inspect.Parameter("file", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=positional)

    def command(file: Path, **flags: Any) -> int:
        question = read_spec(file)
        flags["out"] = flags["out"] or str(Path("runs") / file.stem)
        return _execute(question.configs, flags, question.content)

    return _with_flags(
        command, "Run a grid of runs that a file asks for.", [file, *_flags(RunOptions, out=""), *_flags(SweepOptions)]
    )


def _preset(study: Study, arguments: Sequence[str]) -> str:
    """The preset in `arguments`, which decides on the defaults of all other flags, so that it is read before them."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--preset", nargs="?", default=study.default_preset, const=study.default_preset)
    preset: str = parser.parse_known_args(arguments)[0].preset
    return preset


def _study(study: Study, preset: str) -> Any:
    """A function whose keyword arguments are the preset, the configuration's fields, each a tuple, and how to execute them."""
    axes = [_axis(study, name, default) for name, default in study.axes(preset).items()]
    argument = tyro.conf.arg(help="settings to begin with; each flag changes one of them", metavar="|".join(study.presets))
    presets = [_parameter("preset", Annotated[str, argument], preset)] if len(study.presets) > 1 else []

    def command(**flags: Any) -> int:
        return _execute(study.grid({axis.name: flags.pop(axis.name) for axis in axes}), flags)

    places = _flags(RunOptions, out=str(Path("runs") / study.config.study))
    return _with_flags(command, (study.config.__doc__ or "").split("\n")[0], [*presets, *axes, *places, *_flags(SweepOptions)])


def _execute(configs: Sequence[Config], flags: dict[str, Any], question: bytes | None = None) -> int:
    """Execute the runs where and how the flags say, and return the exit code: 1 if one failed."""
    console = terminal(quiet=int(os.environ.get("RANK", 0)) > 0)  # of several processes, the first alone speaks
    flags["out"] = location(flags["out"])
    place = RunOptions(**{field.name: flags[field.name] for field in dataclasses.fields(RunOptions)})
    how = SweepOptions(**{field.name: flags[field.name] for field in dataclasses.fields(SweepOptions)})
    place.check()
    how.check()
    if how.ray is None:
        place.torch_device()
    if how.dry_run:
        plan(configs, place, how, console)
        return 0
    records, failures = execute(configs, place, how, console, question)
    console.print(report.table(records))
    console.print(f"Report: {place.out / 'report.html'}\nFigure: {place.out / 'sparsity.png'}", soft_wrap=True)
    tell(failures, console)
    return int(bool(failures))


def _axis(study: Study, name: str, default: tuple[Any, ...]) -> inspect.Parameter:
    config: Any = study.config
    hint: Any = hints(config)[name]
    values = get_args(hint) if get_origin(hint) is Literal else ()
    # A name that is none of the values is told by the configuration, in one line, as every other bad value is.
    hint = str if values else hint
    argument = tyro.conf.arg(help=_help(study.config, name), metavar=f"{'|'.join(values) or hint.__name__.upper()} ...")
    return _parameter(name, Annotated[tuple[hint, ...], argument], default)


def _flags(kind: type, **defaults: Any) -> list[inspect.Parameter]:
    """A flag for each field of `RunOptions` or `SweepOptions`."""
    flags = []
    owner: Any = kind
    for field in dataclasses.fields(kind):
        hint: Any = hints(owner)[field.name]
        argument = tyro.conf.arg(help=_help(kind, field.name), metavar=METAVARS.get(field.name))
        hint = str if hint == Location else hint
        annotation = Annotated[hint, argument]
        flags.append(_parameter(field.name, annotation, defaults.get(field.name, field.default)))
    return flags


def _with_flags(command: Any, description: str, parameters: Sequence[inspect.Parameter]) -> Any:
    """`command`, which takes any keyword arguments, with these for its signature."""
    command.__doc__ = description
    command.__signature__ = inspect.Signature(parameters)
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _help(config: type, name: str) -> str:
    """What the docstrings of `config` and its bases say about the attribute `name`."""
    for base in config.__mro__:
        if name in (documented := _documented(base.__dict__.get("__doc__") or "")):
            return documented[name]
    raise LookupError(f"{config.__name__} does not document {name}")


@functools.cache
def _documented(docstring: str) -> dict[str, str]:
    """What a docstring says of each attribute."""
    parameters = docstring_parser.parse(docstring).params
    return {parameter.arg_name: (parameter.description or "").replace("\n", " ") for parameter in parameters}
