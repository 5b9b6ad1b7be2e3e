"""`run:FOLDER`: a model trained by a study, on the test data of the study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sparseout.cli.probe import samples
from sparseout.cli.probe.probed_model import ProbedModel
from sparseout.errors import UserError
from sparseout.runs.load import load_run
from sparseout.studies.registry import find_study


def load(folder: Path, data: Sequence[Path], study: str | None) -> ProbedModel:
    """Load the trained model of a run. `data` may name the folder of the data set, and `study` imports one of the user.

    Raises:
        UserError: the folder is not a complete run, or the data is missing.
    """
    if len(data) > 1:
        raise UserError(f"--data must be a single folder for run:, like --data-dir of the study, got {len(data)}")
    run = load_run(folder, data[0] if data else None, find_study(study) if study else None)
    history = [{"step": epoch["epoch"], "layers": [{"layer": "all regularised layers", **epoch}]} for epoch in run.history]
    batches = run.study.test_batches(run.data)
    return ProbedModel(run.network.eval(), batches, len(batches), history=history, show=samples.image_tensors(batches))
