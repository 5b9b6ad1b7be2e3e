"""The studies' commands: every field of a configuration is a flag, and every flag may be given several values."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import docstring_parser
import tyro
from rich.console import Console

from sparseout import report
from sparseout.studies import autoencoder
from sparseout.studies.glm.command import glm
from sparseout.studies.study import Place, Study

STUDIES = [autoencoder.STUDY]


def study_app() -> tyro.extras.SubcommandApp:
    """The commands `sparseout study NAME`."""
    app = tyro.extras.SubcommandApp()
    for study in STUDIES:
        app.command(_command(study), name=study.config.study)
    app.command(name="glm")(glm)
    return app


def _command(study: Study) -> Any:
    """A function whose keyword arguments are the fields of the study's configuration, each a tuple, and those of `Place`."""
    axes = [_axis(study, field) for field in dataclasses.fields(study.config)]
    places = [_place(field, study.config.study) for field in dataclasses.fields(Place)]

    def command(**flags: Any) -> None:
        console = Console()
        place = Place(**{parameter.name: flags[parameter.name] for parameter in places})
        configs = study.grid({parameter.name: flags[parameter.name] for parameter in axes})
        records = study.execute(configs, place, console)
        console.print(report.table(records))
        console.print(f"Report: {place.out / 'report.html'}\nFigure: {place.out / 'sparsity.png'}", soft_wrap=True)

    command.__doc__ = (study.config.__doc__ or "").split("\n")[0]
    command.__signature__ = inspect.Signature([*axes, *places])  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in (*axes, *places)}
    return command


def _axis(study: Study, field: dataclasses.Field[Any]) -> inspect.Parameter:
    hint: Any = get_type_hints(study.config)[field.name]
    values = get_args(hint) if get_origin(hint) is Literal else ()
    # A name that is none of the values is told by the configuration, in one line, as every other bad value is.
    hint = str if values else hint
    metavar = f"{'|'.join(values) or hint.__name__.upper()} ..."
    argument = tyro.conf.arg(help=_help(study.config, field.name), metavar=metavar)
    default = study.axes.get(field.name, (field.default,))
    return _parameter(field.name, Annotated[tuple[hint, ...], argument], default)


def _place(field: dataclasses.Field[Any], study: str) -> inspect.Parameter:
    hint = get_type_hints(Place)[field.name]
    default = Path("runs") / study if field.name == "out" else field.default
    metavar = "NAME" if hint is str else "DIR"
    return _parameter(field.name, Annotated[hint, tyro.conf.arg(help=_help(Place, field.name), metavar=metavar)], default)


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _help(config: type, name: str) -> str:
    """What the docstrings of `config` and its bases say about the attribute `name`."""
    for base in config.__mro__:
        for parameter in docstring_parser.parse(base.__dict__.get("__doc__") or "").params:
            if parameter.arg_name == name:
                return (parameter.description or "").replace("\n", " ")
    raise LookupError(f"{config.__name__} does not document {name}")
