"""The schema of a study's records: the fields of each, with their types and ranges."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from sparseout.errors import UserError
from sparseout.records.identity import RESULT_FIELDS, result_names, run_of, settings_of, unused_settings
from sparseout.records.methods import Regularizer
from sparseout.records.scores import SCORES, Better
from sparseout.records.strict_json import parse

Record = dict[str, Any]
LARGEST = 3.4e38  # the float32 range, in which networks compute; sums of such squares are finite in float64
# Settings of regularizers that a summary has whenever they have an effect.
CHECKED_SETTINGS = (
    *("q", "p", "gradient", "strength", "transformed_l1_a", "k", "boost_strength", "standout_alpha", "standout_beta"),
)
POINTS = 65  # length of a profile and of a course

Number = Annotated[float, Meta(ge=-LARGEST, le=LARGEST)]
Positive = Annotated[float, Meta(ge=0, le=LARGEST)]
Share = Annotated[float, Meta(ge=-1e-6, le=1 + 1e-6)]  # rounding may exceed [0, 1]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Run = Annotated[str, Meta(pattern="^[0-9a-f]{12}$")]
ScoreName = Annotated[str, Meta(pattern="^(?!valid_)[a-z][a-z0-9_]{0,31}$")]
Norm = Annotated[float, Meta(ge=0)]
Dial = Literal["q", "strength", "k", "standout_beta"]
Course = Annotated[list[Number | None], Meta(min_length=POINTS, max_length=POINTS)]
Profile = Annotated[list[Number], Meta(min_length=POINTS, max_length=POINTS)]


class RunLayer(Struct):
    """Measures of a regularised layer; null where a measure does not exist."""

    hoyer: Share | None
    zeros: Share | None
    rms: Positive | None
    units: Count | None
    vectors: Count
    zero_vectors: Count
    profile: Profile | UnsetType = UNSET


class ControlCourse(Struct):
    """The dial and the measured sparsity of a run with a target, at evenly spaced times of training."""

    value: Course
    measured: Course


class Control(Struct):
    """How a run approached its target in `layers`: `value` is the last one of the setting `dial`."""

    achieved: Number | None
    dial: Dial
    value: Number
    settled: Share
    out_of_reach: bool | None
    course: ControlCourse
    layers: tuple[str, ...] | UnsetType = UNSET


class Provenance(Struct):
    """The code, machine, date and command behind a result."""

    sparseout: str
    torch: str
    cpu: str
    date: str
    command: str
    commit: str | None = None
    trained_by: list[dict[str, str | int | None]] = []


class RunSummary(Struct):
    """A complete run: the settings and results that tables, statistics and figures need."""

    study: str
    run: Run
    seed: Count
    regularizer: Regularizer
    test_loss: Number | None
    hoyer: Share | None
    zeros: Share | None
    rms: Positive | None
    layers: Annotated[dict[str, RunLayer], Meta(min_length=1)]
    seconds: Positive
    provenance: Provenance
    q: Norm | UnsetType = UNSET
    p: Share | UnsetType = UNSET
    gradient: Literal["detached", "exact"] | UnsetType = UNSET
    strength: Positive | UnsetType = UNSET
    transformed_l1_a: Positive | UnsetType = UNSET
    k: Share | UnsetType = UNSET
    boost_strength: Positive | UnsetType = UNSET
    standout_alpha: Number | UnsetType = UNSET
    standout_beta: Number | UnsetType = UNSET
    perplexity: Number | UnsetType | None = UNSET
    accuracy: Share | UnsetType | None = UNSET
    valid_loss: Number | UnsetType | None = UNSET
    valid_perplexity: Number | UnsetType | None = UNSET
    valid_accuracy: Share | UnsetType | None = UNSET
    best_epoch: Count | UnsetType = UNSET
    penalty: Number | UnsetType | None = UNSET
    noise_loss: Number | UnsetType | None = UNSET
    target_sparsity: Share | UnsetType = UNSET
    target_measure: Literal["hoyer", "zeros"] | UnsetType = UNSET
    control: Control | UnsetType = UNSET
    scores: dict[ScoreName, Better] | UnsetType = UNSET  # of a user's study

    def __post_init__(self) -> None:
        unused = unused_settings(self.regularizer, has_target=self.target_sparsity is not UNSET)
        for name in CHECKED_SETTINGS:
            if name not in unused and getattr(self, name) is UNSET:
                raise ValueError(f"{name} must be present with regularizer {self.regularizer!r}")
        found = {type(value) is UnsetType for value in (self.target_sparsity, self.target_measure, self.control)}
        if len(found) > 1:
            raise ValueError("target_sparsity, target_measure and control must all be present, or none of them")


class Failure(Struct):
    """Why a run failed."""

    run: Run
    reason: str
    command: str
    traceback: str


class Marker(Struct):
    """The study that a folder belongs to."""

    study: str


class RunSettings(Struct):
    """The settings of a run, as stored in its folder."""

    study: str
    run: Run


class Epoch(Struct):
    """One epoch of a run, with the measurements taken after it."""

    epoch: Annotated[int, Meta(ge=1, le=2**63 - 1)]
    seconds: Positive = 0.0


def read(content: bytes, kind: type[Any], name: object) -> Record:
    """Return the record in `content` as plain data, after validating it.

    Args:
        content: JSON.
        kind: a class of this module.
        name: the label of the content in messages: a file, or a line of one.

    Raises:
        UserError: the content is not such a record. The message names the file and the field.

    >>> read(b'{"study": 3}', Marker, "study.json")
    Traceback (most recent call last):
    sparseout.errors.UserError: study.json: study: expected `str`, got `int`
    """
    try:
        record: Record = parse(content)
        msgspec.convert(record, kind)
        if kind is Epoch:
            msgspec.convert(record, dict[str, Number | None])
    except msgspec.ValidationError as error:
        raise UserError(f"{name}: {_field_first(str(error))}") from error
    except ValueError as error:
        raise UserError(f"{name} cannot be read as JSON: {error}") from error
    return record


def read_summary(content: bytes, name: object) -> Record:
    """Return the summary of a run after checking that its `run` is the hash of its settings.

    Raises:
        UserError: the content is not a summary, or was edited.
    """
    record = read(content, RunSummary, name)
    _check_own_scores(record, name)
    _check_hash(settings_of(record), record["run"], name)
    return record


def _check_own_scores(record: Record, name: object) -> None:
    """Raise unless the record has the scores of the user's study that it names, as numbers."""
    for score in record.get("scores", ()):
        if score in SCORES or score not in record:
            raise UserError(f"{name}: scores: {score} must be a score of the study's own, and the record must have it")
        for field in (score, f"valid_{score}"):
            try:
                msgspec.convert(record.get(field), Number | None)
            except msgspec.ValidationError as error:
                raise UserError(f"{name}: {field}: {str(error)[0].lower()}{str(error)[1:]}") from error


def read_settings(content: bytes, name: object) -> Record:
    """Return the settings of a run, without their hash `run`.

    Raises:
        UserError: the content is not a run's settings, or was edited.
    """
    settings = read(content, RunSettings, name)
    _check_hash(settings, settings.pop("run"), name)
    return settings


def check_results(results: Record, own_scores: Collection[str]) -> None:
    """Raise `UserError` for a result that a reader would take for a setting, and for a score of the study that is missing."""
    for name in own_scores:
        if name not in results:
            raise UserError(f"the results of the run must have the score {name!r}, which the configuration's `better` names")
    unknown = [name for name in results if name not in result_names(own_scores)]
    if unknown:
        written = ("control", "scores", "seconds", "provenance")
        allowed = ", ".join(name for name in (*RESULT_FIELDS, *own_scores) if name not in written)
        raise UserError(f"the results of the run must be among {allowed}, got {unknown[0]!r}")


def _check_hash(settings: Record, run: str, name: object) -> None:
    if (found := run_of(settings)) != run:
        raise UserError(f"{name} was edited: run is {run!r}, but its settings hash to {found!r}")


def _field_first(message: str) -> str:
    """Move the field from the end of a msgspec message to its start."""
    found = re.fullmatch(r"(.*) - at `\$\.?(.*)`", message, re.DOTALL)
    return f"{found[2]}: {found[1][0].lower()}{found[1][1:]}" if found and found[2] else message
