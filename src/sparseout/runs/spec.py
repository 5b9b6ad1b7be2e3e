"""The sweep file: a study, and a value or several values for each setting."""

from __future__ import annotations

import dataclasses
import difflib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_type_hints

from sparseout.errors import UserError
from sparseout.runs.executors import SweepOptions
from sparseout.runs.options import RunOptions
from sparseout.studies.registry import STUDIES
from sparseout.training.config import Config

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TYPE_NAMES: dict[Any, str] = {float: "a number", int: "an integer", bool: "true or false", str: "a string"}


@dataclasses.dataclass(frozen=True)
class SweepSpec:
    """A sweep file.

    Attributes:
        content: the bytes of the file.
        configs: the runs that it describes.
    """

    content: bytes
    configs: list[Config]


def read_spec(file: Path) -> SweepSpec:
    """Read a sweep file: `study = NAME`, optionally a `preset`, and settings as `name = value` or `name = [value, ...]`.

    Raises:
        UserError: the file cannot be read, or its study has no such setting or does not allow such a value.
    """
    try:
        content = file.read_bytes()
        given = tomllib.loads(content.decode())
    except RecursionError as error:
        raise UserError(f"{file} cannot be read: it is nested too deeply") from error
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{file} cannot be read: {error}") from error
    try:
        return SweepSpec(content, _configs(given))
    except UserError as error:
        raise UserError(f"{file}: {error}") from error


def _configs(given: dict[str, Any]) -> list[Config]:
    name = given.pop("study", None)
    if not isinstance(name, str) or name not in STUDIES:
        raise UserError(f"study must be one of {', '.join(map(repr, STUDIES))}, got {_shown(name)}")
    study = STUDIES[name]
    preset = given.pop("preset", study.default_preset)
    if not isinstance(preset, str):
        raise UserError(f"preset must be one of {', '.join(map(repr, study.presets))}, got {_shown(preset)}")
    axes = study.axes(preset)
    hints = get_type_hints(study.config)
    for name, values in given.items():
        if name not in axes:
            raise UserError(_unknown(name, ["study", "preset", *axes]))
        axes[name] = tuple(_checked(name, hints[name], value) for value in (values if isinstance(values, list) else [values]))
    return study.grid(axes)


def _unknown(name: str, known: Sequence[str]) -> str:
    if name in {field.name for kind in (RunOptions, SweepOptions) for field in dataclasses.fields(kind)}:
        return f"{name} does not belong in the file: pass --{name.replace('_', '-')} to the command"
    close = difflib.get_close_matches(name, known, 1, 0.0)[0]
    return f"{name if name.isidentifier() else _shown(name)} is not a setting of this study: did you mean {close}?"


def _checked(name: str, hint: Any, value: Any) -> Any:
    """Return `value` if its type is the setting's, as a flag would; the configuration checks its range."""
    kind = hint if hint in TYPE_NAMES else str
    if type(value) is int and not -(2**63) <= value < 2**63:
        raise UserError(f"{name} must be a number of at most 64 bits, got {_shown(value)}")
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise UserError(f"{name} must be {TYPE_NAMES[kind]}, got {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    """Return a value for a message, in one line of at most 80 characters."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deeply, or with too many digits, for Python to write
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."
