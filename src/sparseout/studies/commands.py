"""The studies' commands: every field of a configuration is a flag, and every flag may be given several values."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import docstring_parser
import tyro
from rich.console import Console

from sparseout import report
from sparseout.studies import autoencoder, image, language
from sparseout.studies.config import UserError
from sparseout.studies.glm.command import glm
from sparseout.studies.place import Place
from sparseout.studies.study import Study

STUDIES = {study.config.study: study for study in (autoencoder.STUDY, image.STUDY, language.STUDY)}


def study_app(arguments: Sequence[str]) -> tyro.extras.SubcommandApp:
    """The commands `sparseout study NAME`, with the defaults of the preset that `arguments` ask for."""
    app = tyro.extras.SubcommandApp()
    for name, study in STUDIES.items():
        app.command(_command(study, _preset(study, arguments) if name in arguments else next(iter(study.presets))), name=name)
    app.command(name="glm")(glm)
    return app


def _preset(study: Study, arguments: Sequence[str]) -> str:
    """The preset in `arguments`, which decides on the defaults of all other flags, so that it is read before them."""
    given = [word.partition("=")[2] for word in arguments if word.startswith("--preset=")]
    given += [word for flag, word in itertools.pairwise(arguments) if flag == "--preset"]
    preset = given[-1] if given else next(iter(study.presets))
    if preset not in study.presets:
        raise UserError(f"preset must be one of {', '.join(map(repr, study.presets))}, got {preset!r}")
    return preset


def _command(study: Study, preset: str) -> Any:
    """A function whose keyword arguments are the preset, the configuration's fields, each a tuple, and those of `Place`."""
    values = study.presets[preset]
    axes = [_axis(study, field, values.get(field.name, field.default)) for field in dataclasses.fields(study.config)]
    places = [_place(field, study.config.study) for field in dataclasses.fields(Place)]
    argument = tyro.conf.arg(help="settings to begin with; each flag changes one of them", metavar="|".join(study.presets))
    presets = [_parameter("preset", Annotated[str, argument], preset)] if len(study.presets) > 1 else []

    def command(**flags: Any) -> None:
        console = Console(quiet=int(os.environ.get("RANK", 0)) > 0)  # of several processes, the first alone speaks
        place = Place(**{parameter.name: flags[parameter.name] for parameter in places})
        configs = study.grid({parameter.name: flags[parameter.name] for parameter in axes})
        records = study.execute(configs, place, console)
        console.print(report.table(records))
        console.print(f"Report: {place.out / 'report.html'}\nFigure: {place.out / 'sparsity.png'}", soft_wrap=True)

    command.__doc__ = (study.config.__doc__ or "").split("\n")[0]
    parameters = [*presets, *axes, *places]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _axis(study: Study, field: dataclasses.Field[Any], default: Any) -> inspect.Parameter:
    hint: Any = get_type_hints(study.config)[field.name]
    values = get_args(hint) if get_origin(hint) is Literal else ()
    # A name that is none of the values is told by the configuration, in one line, as every other bad value is.
    hint = str if values else hint
    metavar = f"{'|'.join(values) or hint.__name__.upper()} ..."
    argument = tyro.conf.arg(help=_help(study.config, field.name), metavar=metavar)
    default = default if isinstance(default, tuple) else (default,)
    return _parameter(field.name, Annotated[tuple[hint, ...], argument], default)


def _place(field: dataclasses.Field[Any], study: str) -> inspect.Parameter:
    hint = get_type_hints(Place)[field.name]
    default = Path("runs") / study if field.name == "out" else field.default
    argument = tyro.conf.arg(help=_help(Place, field.name), metavar={str: "NAME", float: "FLOAT", bool: None}.get(hint, "DIR"))
    return _parameter(field.name, Annotated[hint, argument], default)


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _help(config: type, name: str) -> str:
    """What the docstrings of `config` and its bases say about the attribute `name`."""
    for base in config.__mro__:
        for parameter in docstring_parser.parse(base.__dict__.get("__doc__") or "").params:
            if parameter.arg_name == name:
                return (parameter.description or "").replace("\n", " ")
    raise LookupError(f"{config.__name__} does not document {name}")
