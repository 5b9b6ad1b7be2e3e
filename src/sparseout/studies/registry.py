"""Studies by name: the built-in ones, and those that a name such as `my_package.my_module:STUDY` imports."""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import sys
from typing import Any, Literal, get_args, get_origin, get_type_hints

from sparseout.errors import UserError
from sparseout.records.identity import RESULT_FIELDS
from sparseout.records.scores import Better
from sparseout.studies import autoencoder, image, language
from sparseout.studies.glm import study as glm
from sparseout.training.config import Config
from sparseout.training.study import Study, check_decorated
from sparseout.user_code import describe, import_module

STUDIES = {study.config.study: study for study in (autoencoder.STUDY, image.STUDY, language.STUDY, glm.STUDY)}
STUDY_NAMES = f"one of {', '.join(map(repr, STUDIES))}, or module:OBJECT for a study of your own"
TYPES = (float, int, bool, str)  # that a setting may have
# Names of flags and of entries in a sweep file and in a record, which no setting may have.
RESERVED = frozenset(
    (
        *("out", "data_dir", "device", "checkpoint_minutes", "tensorboard", "jobs", "ray", "dry_run", "known"),
        *("known_any_version", "preset", "run_options", "sweep_options", "tune", "gate", "study", "run"),
        *RESULT_FIELDS,
    )
)


def find_study(name: str) -> Study:
    """Return the built-in study called `name`, or import the one that `name` names as `module:OBJECT`.

    The import runs the module's code, so `name` must come from a command line or from a sweep file, never from a record. The
    current folder is put on Python's path, and stays there for what the study's functions import.

    Raises:
        UserError: there is no such study, its module cannot be imported, or the object is not a study that can run.
    """
    if name in STUDIES:
        return STUDIES[name]
    if not is_source(name):
        raise UserError(f"study must be {STUDY_NAMES}, got {name!r}")
    if (folder := os.getcwd()) not in sys.path:
        sys.path.insert(0, folder)
    module_name, _, path = name.partition(":")
    module = import_module(module_name, "a study of your own is named module:OBJECT, such as my_package.my_module:STUDY")
    study = getattr(module, path, None)
    if not isinstance(study, Study):
        studies = [found for found, value in vars(module).items() if isinstance(value, Study)]
        close = difflib.get_close_matches(path, studies, 1, 0.0)
        if not hasattr(module, path):
            raise UserError(f"{module_name} has no {path!r}" + (f": did you mean {close[0]}?" if close else ", and no study"))
        raise UserError(f"{name} must be a sparseout.training.Study, got an object of type {type(study).__name__}")
    try:
        _check(study)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    study.config.source = name
    return study


def is_source(name: str) -> bool:
    """Return whether `name` has the form `module:OBJECT`.

    >>> is_source("my_package.my_module:STUDY"), is_source("autoencoder"), is_source("photos.py")
    (True, False, False)
    """
    module, _, path = name.partition(":")
    return path.isidentifier() and all(part.isidentifier() for part in module.split("."))


def _check(study: Study) -> None:
    """Raise `UserError` if a study of the user cannot be run from the command line."""
    config, name = study.config, getattr(study.config, "study", None)
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", name):
        raise UserError(f"{config.__name__}.study must be the study's name, in lower-case letters, digits, _ and -, got {name!r}")
    if name in STUDIES:
        raise UserError(f"{config.__name__}.study must differ from the built-in studies {', '.join(STUDIES)}, got {name!r}")
    check_decorated(config)
    if not hasattr(config, "epochs"):
        raise UserError(f"{config.__name__} must have a setting epochs, the number of passes over the training data")
    try:
        hints = get_type_hints(config)
    except (NameError, TypeError) as error:
        raise UserError(f"{config.__name__} has a type that Python does not know: {error}") from error
    for score, better in config.better.items():
        _check_score(config, score, better)
    for field in dataclasses.fields(config):
        _check_setting(field.name, hints[field.name], field.default)
    if not study.presets:
        raise UserError("presets must have at least one preset, got none")
    for preset, changes in study.presets.items():
        for setting in changes:
            if setting not in hints:
                raise UserError(f"preset {preset!r} must change settings alone, got {setting!r}")
    try:
        config()
    except (TypeError, ValueError) as error:
        raise UserError(f"the defaults of {config.__name__} must be a run: {describe(error)}") from error


def _check_score(config: type[Config], name: Any, better: Any) -> None:
    """Raise `UserError` if a score of the study cannot be a result in a record."""
    if not isinstance(name, str) or not re.fullmatch("[a-z][a-z0-9_]{0,31}", name):
        raise UserError(f"{config.__name__}.better must name scores in lower-case letters, digits and _, got {name!r}")
    settings = {field.name for field in dataclasses.fields(config)}
    if name == "loss" or name.startswith("valid_") or {name, f"valid_{name}"} & (RESERVED | settings):
        raise UserError(f"{config.__name__}.better must not have {name!r}, which has another meaning in a record")
    if better not in get_args(Better):
        raise UserError(f"{config.__name__}.better must say of {name!r} which is better, 'higher' or 'lower', got {better!r}")


def _check_setting(name: str, hint: Any, default: Any) -> None:
    """Raise `UserError` if a setting cannot be a flag, an entry of a sweep file and a value in a record."""
    choices = get_args(hint) if get_origin(hint) is Literal else ()
    if name in RESERVED:
        raise UserError(f"a setting must not be called {name!r}, which has another meaning in a command or a record")
    if hint not in TYPES and not (choices and all(isinstance(choice, str) for choice in choices)):
        raise UserError(f"the setting {name!r} must be a float, int, bool, str or a Literal of strings, got {_shown(hint)}")
    if default is dataclasses.MISSING:
        raise UserError(f"the setting {name!r} must have a default")
    kinds = {float: (float, int), int: (int,), bool: (bool,)}.get(hint, (str,))
    if type(default) not in kinds:
        raise UserError(f"the setting {name!r} must have a default of type {_shown(hint)}, got {default!r}")


def _shown(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint)
