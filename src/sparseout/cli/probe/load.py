"""Loads the model and data that a command line names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sparseout.cli.probe.probed_model import TARGET_KINDS, ProbedModel
from sparseout.errors import UserError


def load(name: str, data: Sequence[Path], batch_size: int, study: str | None = None) -> ProbedModel:
    """Load the model called `name`, with the files `data` as its input. `study` imports the study of a run.

    Raises:
        UserError: the model does not exist, or cannot run on the data.
    """
    kind, _, rest = name.partition(":")
    if not rest or not kind or kind.startswith("."):
        raise UserError(f"TARGET must be {TARGET_KINDS}, got {name!r}")
    if study and kind != "run":
        raise UserError(f"--study is for run:FOLDER, got {name!r}")
    if kind == "hf":
        from sparseout.cli.probe import hub

        return hub.load(rest, data, batch_size)
    if kind == "run":
        from sparseout.cli.probe import run

        return run.load(Path(rest), data, study)
    from sparseout.cli.probe import factory

    return factory.load(kind, rest, data, batch_size)
