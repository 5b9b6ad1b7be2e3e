"""Finds what a command line means by a model and its data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sparseout.cli.probe.subject import KINDS, Subject
from sparseout.errors import UserError


def find(name: str, data: Sequence[Path], batch_size: int) -> Subject:
    """The target called `name`, with the files `data` as its input.

    Raises:
        UserError: there is none, or the data does not suit it.
    """
    kind, _, rest = name.partition(":")
    if not rest or not kind or kind.startswith("."):
        raise UserError(f"TARGET must be {KINDS}, got {name!r}")
    if kind == "hf":
        from sparseout.cli.probe import hub

        return hub.load(rest, data, batch_size)
    if kind == "run":
        from sparseout.cli.probe import run

        return run.load(Path(rest), data)
    from sparseout.cli.probe import factory

    return factory.load(kind, rest, data, batch_size)
