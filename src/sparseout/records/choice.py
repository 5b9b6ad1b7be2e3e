"""The choice of a tuned sweep, as `choice.json` keeps it: each contender's candidates, their scores, and the chosen one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import Meta, Struct

from sparseout.records.files import Location, content_of, is_file, read_bytes
from sparseout.records.schema import Count, Number, Record, Run, read
from sparseout.records.scores import VALIDATION_SCORES, Better

CHOICE = "choice.json"
REGULARIZER = "regularizer"  # the setting that names the method


class Candidate(Struct):
    """A candidate of a contender, with its run and its score for each tuning seed; null where a score is not finite.

    `missed` is the number of its runs that missed their target sparsity. `mean` is null if the candidate is not eligible.
    """

    settings: dict[str, str | float | int | bool]
    runs: list[Run]
    scores: list[Number | None]
    missed: Count
    mean: Number | None


class Contender(Struct):
    """A contender: its candidates, which one is chosen, and its runs in the test stage.

    `effort` is the number of candidates before equal runs were merged, `missing` the number of tuning runs without a record,
    `edges` the tuned settings whose chosen value is the lowest or the highest of their grid, and `last_epoch` the number of the
    chosen candidate's tuning runs whose best epoch is the last one.
    """

    name: str
    candidates: Annotated[list[Candidate], Meta(min_length=1)]
    effort: Count
    missing: Count
    chosen: Count | None
    edges: list[str]
    last_epoch: Count
    runs: list[Run]

    def __post_init__(self) -> None:
        if self.chosen is not None and self.chosen >= len(self.candidates):
            raise ValueError(f"chosen must be one of the {len(self.candidates)} candidates, got {self.chosen}")


class Gate(Struct):
    """The score by which Dropout must beat no noise, and the contenders to compare: indices of Dropout and of no noise."""

    score: str
    pairs: list[tuple[Count, Count]]


class Choice(Struct):
    """What the tune stage of a sweep chose. `better` is that of a score of a user's study, and null for any other."""

    score: str
    seeds: list[Count]
    contenders: list[Contender]
    gate: Gate | None = None
    better: Better | None = None

    def __post_init__(self) -> None:
        if self.score not in VALIDATION_SCORES and self.better is None:
            raise ValueError(f"score must be one of {', '.join(map(repr, VALIDATION_SCORES))}, got {self.score!r}")
        if self.gate and any(index >= len(self.contenders) for pair in self.gate.pairs for index in pair):
            raise ValueError(f"pairs must be indices of the {len(self.contenders)} contenders, got {self.gate.pairs}")


def better_of(choice: Mapping[str, Any]) -> Better:
    """Return whether a higher or a lower value of the score of a choice is better."""
    return choice.get("better") or VALIDATION_SCORES[choice["score"]]


def fixed_score(choice: Mapping[str, Any]) -> str:
    """Return the score on test data that a sweep fixed beforehand: that of its gate, or the one that belongs to its tune stage.

    >>> fixed_score({"score": "valid_loss"}), fixed_score({"score": "valid_accuracy", "gate": None})
    ('test_loss', 'accuracy')
    """
    if choice.get("gate"):
        return str(choice["gate"]["score"])
    name = choice["score"].removeprefix("valid_")
    return "test_loss" if name == "loss" else name


def tuned_settings(choice: Mapping[str, Any] | None) -> frozenset[str]:
    """Return the names of the settings that the tune stage chose; an empty set for a study that was not tuned."""
    contenders = choice["contenders"] if choice else []
    return frozenset(name for contender in contenders for candidate in contender["candidates"] for name in candidate["settings"])


def read_choice(folder: Location) -> Record | None:
    """Return the choice in a study's folder, or None if the study was not tuned.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / CHOICE
    if not is_file(path):
        return None
    return read(content_of(folder, {CHOICE: read_bytes(path)}, CHOICE), Choice, path)
