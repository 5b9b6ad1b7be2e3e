"""A sweep's file: which study, and which values of which settings."""

from __future__ import annotations

import dataclasses
import difflib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_type_hints

from sparseout.studies.catalogue import STUDIES
from sparseout.studies.config import Config, UserError
from sparseout.studies.execution import Execution
from sparseout.studies.place import Place

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

WORDS: dict[Any, str] = {float: "a number", int: "an integer", bool: "true or false"}


@dataclasses.dataclass(frozen=True)
class Question:
    """What a file asks for.

    Attributes:
        content: of the file.
        configs: the runs.
    """

    content: bytes
    configs: list[Config]


def read_question(file: Path) -> Question:
    """Read `study = NAME`, a `preset` if there is one, and settings: `name = value`, or `name = [value, ...]`, an axis.

    Raises:
        UserError: the file cannot be read, or has a name or a value that its study does not have.
    """
    try:
        content = file.read_bytes()
        given = tomllib.loads(content.decode())
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    try:
        return Question(content, _configs(given))
    except UserError as error:
        raise UserError(f"{file}: {error}") from error


def _configs(given: dict[str, Any]) -> list[Config]:
    if given.get("study") not in STUDIES:
        raise UserError(f"study must be one of {', '.join(map(repr, STUDIES))}, got {given.get('study')!r}")
    study = STUDIES[given.pop("study")]
    axes = study.axes(given.pop("preset", study.default_preset))
    hints = get_type_hints(study.config)
    for name, values in given.items():
        if name not in axes:
            raise UserError(_unknown(name, ["study", "preset", *axes]))
        axes[name] = tuple(_checked(name, hints[name], value) for value in (values if isinstance(values, list) else [values]))
    return study.grid(axes)


def _unknown(name: str, known: Sequence[str]) -> str:
    if name in {field.name for kind in (Place, Execution) for field in dataclasses.fields(kind)}:
        return f"{name} is no part of the question: give --{name.replace('_', '-')} to the command"
    close = difflib.get_close_matches(name, known, 1, 0.0)[0]
    return f"{name} is no setting of this study: did you mean {close}?"


def _checked(name: str, hint: Any, value: Any) -> Any:
    """`value` as a flag would give it. Names are checked by the configuration."""
    if hint is float and type(value) is int:
        return float(value)
    if hint in WORDS and type(value) is not hint:
        raise UserError(f"{name} must be {WORDS[hint]}, got {value!r}")
    return value
