"""The fields of each record that a study writes, with their types and ranges."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from sparseout.errors import UserError
from sparseout.records.identity import run_of, settings_of
from sparseout.records.strict_json import parse

Record = dict[str, Any]
LARGEST = 3.4e38  # what float32 holds, in which networks compute; sums of squares of it are finite in float64
POINTS = 65  # of a profile, and of a course

Number = Annotated[float, Meta(ge=-LARGEST, le=LARGEST)]
Positive = Annotated[float, Meta(ge=0, le=LARGEST)]
Share = Annotated[float, Meta(ge=-1e-6, le=1 + 1e-6)]  # rounding may leave [0, 1]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Run = Annotated[str, Meta(pattern="^[0-9a-f]{12}$")]
Norm = Annotated[float, Meta(ge=0)]
Course = Annotated[list[Number | None], Meta(min_length=POINTS, max_length=POINTS)]
Profile = Annotated[list[Number], Meta(min_length=POINTS, max_length=POINTS)]


class Layer(Struct):
    """A regularised layer; a measure that does not exist is null."""

    hoyer: Share | None
    zeros: Share | None
    rms: Positive | None
    units: Count | None
    vectors: Count
    zero_vectors: Count
    profile: Profile | UnsetType = UNSET


class Courses(Struct):
    """Of a run with a target, at evenly spaced times."""

    q: Course
    measured: Course


class Control(Struct):
    """How a run with a target reached it."""

    achieved: Number | None
    q: Norm
    settled: Share
    out_of_reach: bool | None
    course: Courses


class Provenance(Struct):
    """Where numbers come from."""

    sparseout: str
    torch: str
    cpu: str
    date: str
    command: str
    commit: str | None = None
    trained_by: list[dict[str, str | int | None]] = []


class Summary(Struct):
    """A complete run: what its settings and results have to be for tables, statistics and figures."""

    study: str
    run: Run
    q: Norm
    p: Share
    seed: Count
    gradient: Literal["detached", "exact"]
    noise: Literal["sparseout", "dropout", "none"]
    test_loss: Number | None
    hoyer: Share | None
    zeros: Share | None
    rms: Positive | None
    layers: Annotated[dict[str, Layer], Meta(min_length=1)]
    seconds: Positive
    provenance: Provenance
    perplexity: Number | UnsetType | None = UNSET
    accuracy: Share | UnsetType | None = UNSET
    valid_loss: Number | UnsetType | None = UNSET
    valid_perplexity: Number | UnsetType | None = UNSET
    valid_accuracy: Share | UnsetType | None = UNSET
    best_epoch: Count | UnsetType = UNSET
    target_sparsity: Share | UnsetType = UNSET
    target_measure: Literal["hoyer", "zeros"] | UnsetType = UNSET
    control: Control | UnsetType = UNSET

    def __post_init__(self) -> None:
        found = {type(value) is UnsetType for value in (self.target_sparsity, self.target_measure, self.control)}
        if len(found) > 1:
            raise ValueError("target_sparsity, target_measure and control must all be there, or none of them")


class Failure(Struct):
    """Why a run ended before its end."""

    run: Run
    reason: str
    command: str
    traceback: str


class Marker(Struct):
    """Whose a study's folder is."""

    study: str


class Settings(Struct):
    """The settings of a run, as its folder keeps them."""

    study: str
    run: Run


class Epoch(Struct):
    """An epoch of a run: what was measured after it."""

    epoch: Annotated[int, Meta(ge=1, le=2**63 - 1)]
    seconds: Positive = 0.0


def read(content: bytes, kind: type[Any], name: object) -> Record:
    """The record of a `kind` in `content`, as plain data.

    Args:
        content: JSON.
        kind: one of this module's.
        name: what to call the content in messages: a file, or a line of one.

    Raises:
        UserError: it is something else; the message has `name` and the field.

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
    """The summary of a run in `content`, whose `run` is the hash of the settings in it.

    Raises:
        UserError: it is something else, or was edited.
    """
    record = read(content, Summary, name)
    _check_hash(settings_of(record), record["run"], name)
    return record


def read_settings(content: bytes, name: object) -> Record:
    """The settings of a run in `content`, without the `run` that is their hash.

    Raises:
        UserError: they are something else, or were edited.
    """
    settings = read(content, Settings, name)
    _check_hash(settings, settings.pop("run"), name)
    return settings


def _check_hash(settings: Record, run: str, name: object) -> None:
    if (found := run_of(settings)) != run:
        raise UserError(f"{name} was edited: run is {run!r}, but its settings are those of {found!r}")


def _field_first(message: str) -> str:
    """A message of msgspec's, which names the field at its end, with the field before it."""
    found = re.fullmatch(r"(.*) - at `\$\.?(.*)`", message, re.DOTALL)
    return f"{found[2]}: {found[1][0].lower()}{found[1][1:]}" if found and found[2] else message
