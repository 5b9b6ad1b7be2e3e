"""The scores of runs: those that studies here record, those of a user's study, and whether a higher value is better."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from sparseout.errors import UserError

Better = Literal["higher", "lower"]
# On test data. Unless a sweep fixed a score, a study is compared by the first of these that it has, after the scores of its own.
SCORES: dict[str, Better] = {"accuracy": "higher", "perplexity": "lower", "test_loss": "lower"}
VALIDATION_SCORES: dict[str, Better] = {"valid_loss": "lower", "valid_perplexity": "lower", "valid_accuracy": "higher"}


def scores_of(records: Iterable[Mapping[str, Any]]) -> dict[str, Better]:
    """Return the scores on test data that records may have, those of a user's study first.

    Raises:
        UserError: two records disagree on whether a higher value is better.

    >>> scores_of([{"f1": 0.5, "scores": {"f1": "higher"}}])
    {'f1': 'higher', 'accuracy': 'higher', 'perplexity': 'lower', 'test_loss': 'lower'}
    """
    own: dict[str, Better] = {}
    for record in records:
        for name, better in record.get("scores", {}).items():
            if own.setdefault(name, better) != better:
                raise UserError(f"{name} must be better 'higher' or 'lower' in all records, got both")
    return own | {name: better for name, better in SCORES.items() if name not in own}


def validation_scores(own: Mapping[str, Better]) -> dict[str, Better]:
    """Return the scores on validation data, where `own` are the scores of a user's study.

    >>> validation_scores({"f1": "higher"})["valid_f1"]
    'higher'
    """
    return {f"valid_{name}": better for name, better in own.items()} | VALIDATION_SCORES


def title_of(score: str) -> str:
    """Return the name of a score in tables and sentences.

    >>> title_of("test_loss"), title_of("valid_loss"), title_of("macro_f1")
    ('test loss', 'validation loss', 'macro f1')
    """
    text = score.replace("_", " ")
    return f"validation {text.removeprefix('valid ')}" if text.startswith("valid ") else text
