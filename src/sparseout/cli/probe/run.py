"""`run:FOLDER`: a model that one of the studies trained, on the study's test data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sparseout.cli.probe.subject import Subject
from sparseout.errors import UserError
from sparseout.runs.load import load_run


def load(folder: Path, data: Sequence[Path]) -> Subject:
    """The trained model of a run's folder; `data` may name the folder with the data set's files.

    Raises:
        UserError: the folder is no complete run, or the data is missing.
    """
    if len(data) > 1:
        raise UserError(f"--data must be one folder for run:, as the study's --data-dir, got {len(data)}")
    run = load_run(folder, data[0] if data else None)
    history = [{"step": epoch["epoch"], "layers": [{"layer": "all regularised layers", **epoch}]} for epoch in run.history]
    batches = run.study.test_batches(run.data)
    return Subject(run.network.eval(), batches, len(batches), history=history)
