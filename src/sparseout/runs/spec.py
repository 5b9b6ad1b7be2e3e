"""The sweep file: a study, and a value or several values for each setting."""

from __future__ import annotations

import dataclasses
import difflib
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

from sparseout.errors import UserError
from sparseout.records.choice import REGULARIZER
from sparseout.records.scores import SCORES, validation_scores
from sparseout.runs.contenders import Axes, Contender, Tuning, contenders_of, gate_pairs_of
from sparseout.runs.executors import SweepOptions
from sparseout.runs.options import RunOptions
from sparseout.studies.registry import STUDY_NAMES, find_study
from sparseout.training.config import Config
from sparseout.training.study import Study

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
        study: the study of the runs.
        configs: the runs that it describes; with a tune stage, those of the tune stage.
        tuning: the tune stage; None without one.
    """

    content: bytes
    study: Study
    configs: list[Config]
    tuning: Tuning | None = None


def read_spec(file: Path) -> SweepSpec:
    """Read a sweep file: `study = NAME`, settings as `name = value` or `name = [value, ...]`; `preset`, `[tune]` and `[gate]`.

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
        return SweepSpec(content, *_runs(given))
    except UserError as error:
        raise UserError(f"{file}: {error}") from error


def _runs(given: dict[str, Any]) -> tuple[Study, list[Config], Tuning | None]:
    name = given.pop("study", None)
    if not isinstance(name, str):
        raise UserError(f"study must be {STUDY_NAMES}, got {_shown(name)}")
    study = find_study(name)
    preset = given.pop("preset", study.default_preset)
    if not isinstance(preset, str):
        raise UserError(f"preset must be one of {', '.join(map(repr, study.presets))}, got {_shown(preset)}")
    tune, gate = (_table(given, name) for name in ("tune", "gate"))
    own = _axes(study, given, ["study", "preset", "tune", "gate"])
    axes = study.axes(preset) | own
    if tune is None:
        if gate is not None:
            raise UserError("gate needs a tune stage: it compares tuned Dropout with no noise")
        return study, study.grid(axes), None
    tuning = _tuning(study, axes, own, tune, gate)
    return study, tuning.configs, tuning


def _table(given: dict[str, Any], name: str) -> dict[str, Any] | None:
    """Remove a table from the file's content and return it; None if there is none."""
    table = given.pop(name, None)
    if table is not None and not isinstance(table, dict):
        raise UserError(f"{name} must be a table, [{name}], got {_shown(table)}")
    return table


def _axes(study: Study, given: Mapping[str, Any], others: Sequence[str] = ()) -> dict[str, tuple[Any, ...]]:
    """Return the values of the settings in a table, each as often as it differs. `others` are names that the table may have."""
    names, hints = [field.name for field in dataclasses.fields(study.config)], get_type_hints(study.config)
    axes = {}
    for name, values in given.items():
        if name not in names:
            raise UserError(_unknown(name, [*others, *names]))
        found = [_checked(name, hints[name], value) for value in (values if isinstance(values, list) else [values])]
        axes[name] = tuple(dict.fromkeys(found))
        if not found:
            raise UserError(f"{name} needs at least one value")
    return axes


def _tuning(study: Study, axes: Axes, own: Collection[str], tune: dict[str, Any], gate: dict[str, Any] | None) -> Tuning:
    """Return the tune stage of a file whose other settings are `axes`; those in `own` stand in the file."""
    score, own_scores = tune.pop("score", None), study.config.better
    allowed = validation_scores(own_scores)
    if not isinstance(score, str) or score not in allowed:
        raise UserError(f"tune.score must be a score on validation data, {_listed(allowed)}, got {_shown(score)}")
    better = own_scores.get(score.removeprefix("valid_"))
    try:
        (seeds,) = _axes(study, {"seed": tune.pop("seed", [])}).values()
        tables = _tables(study, axes[REGULARIZER], tune)
    except UserError as error:
        raise UserError(f"tune: {error}") from error
    if both := sorted({*seeds} & {*axes["seed"]}):
        raise UserError(f"tune.seed must have other values than seed, the seeds of the test, got {both[0]} in both")
    for name in own:
        if all(name in tuned for tuned in tables.values()):
            raise UserError(f"{name} must stand either in tune or outside it, not in both")
    contenders = contenders_of(study, axes, tables, seeds[0])
    _check_recorded("tune.score", score, allowed, contenders)
    if gate is None:
        return Tuning(score, seeds, tuple(axes["seed"]), contenders, better=better)
    primary = gate.pop("score", None)
    if gate:
        raise UserError(f"gate must have a score and nothing else, got {_shown(next(iter(gate)))}")
    _check_recorded("gate.score", primary, (*own_scores, *SCORES), contenders)
    pairs = gate_pairs_of(contenders)
    if not pairs:
        raise UserError("gate needs Dropout and no noise among the contenders, with all other settings equal")
    return Tuning(score, seeds, tuple(axes["seed"]), contenders, primary, pairs, better)


def _tables(study: Study, regularizers: Sequence[str], tune: dict[str, Any]) -> dict[str, Axes]:
    """Return the tuned settings of each regularizer: those of its own table or, without one, of `[tune]`."""
    own = {name: value for name, value in tune.items() if isinstance(value, dict)}
    for name in own:
        if name not in regularizers:
            raise UserError(f"{name} must be a {REGULARIZER} of the sweep, {_listed(regularizers)}")
    common = _axes(study, {name: value for name, value in tune.items() if name not in own}, ["score", "seed"])
    tables: dict[str, Axes] = {name: _axes(study, own[name]) if name in own else common for name in regularizers}
    for regularizer, tuned in tables.items():
        if not tuned:
            raise UserError(f"{regularizer} needs at least one setting to tune, such as p = [0.1, 0.3, 0.5]")
        if fixed := {"seed", REGULARIZER} & {*tuned}:
            raise UserError(f"{', '.join(sorted(fixed))} must not be tuned")
    return tables


def _check_recorded(name: str, score: Any, allowed: Collection[str], contenders: Sequence[Contender]) -> None:
    """Raise unless the runs of all contenders record the score, and it is an allowed one."""
    for contender in contenders:
        recorded = [found for found in contender.candidates[0].scores() if found in allowed]
        if not recorded:
            raise UserError(f"{name} must be recorded by the runs, got {_shown(score)}: {contender.name} has no validation data")
        if score not in recorded:
            raise UserError(f"{name} must be a score that the runs record, {_listed(recorded)}, got {_shown(score)}")


def _listed(names: Iterable[str]) -> str:
    return " or ".join(map(repr, names))


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
        wanted = f"one of {', '.join(map(repr, choices))}" if (choices := get_args(hint)) else TYPE_NAMES[kind]
        raise UserError(f"{name} must be {wanted}, got {_shown(value)}")
    return value


def _shown(value: Any) -> str:
    """Return a value for a message, in one line of at most 80 characters."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deeply, or with too many digits, for Python to write
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."
