"""A run's trained model again, from its folder: the configuration, the weights, and the data that it is judged on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from sparseout.studies.commands import STUDIES
from sparseout.studies.config import Config, UserError
from sparseout.studies.records import Record, read_lines
from sparseout.studies.study import WEIGHTS


@dataclasses.dataclass(frozen=True)
class Trained:
    """A run that has ended.

    Attributes:
        config: its settings.
        model: with its weights.
        batches: its study's test inputs.
        history: its epochs.
    """

    config: Config
    model: nn.Module
    batches: Sequence[Tensor]
    history: list[Record]


def trained(folder: Path, data_dir: Path | None = None) -> Trained:
    """The run in `folder`, with its study's data from `data_dir` or where it comes from by default. No pickle is read.

    Raises:
        UserError: the folder is no complete run of a study that is known, or its files are damaged.
    """
    settings = _settings(folder)
    study = next((study for study in STUDIES if study.config.study == settings.get("study")), None)
    if study is None:
        raise UserError(f"{folder / 'config.json'} must be of a study that is known, got {settings.get('study')!r}")
    fields = {field.name: settings.get(field.name, field.default) for field in dataclasses.fields(study.config)}
    try:
        config = study.config(**fields)
    except (TypeError, ValueError) as error:
        raise UserError(f"{folder / 'config.json'}: {error}") from error
    data = study.load(config, data_dir)
    model = study.model(config, data)
    try:
        model.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UserError(f"{folder / WEIGHTS} are no weights of this run: {str(error).splitlines()[0]}") from error
    return Trained(config, model, study.test_batches(data), read_lines(folder / "metrics.jsonl"))


def _settings(folder: Path) -> dict[str, Any]:
    if not (folder / "summary.json").is_file():
        raise UserError(f"{folder} must be the folder of a complete run, with config.json, {WEIGHTS} and summary.json")
    try:
        settings = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / 'config.json'} cannot be read: {error}") from error
    if not isinstance(settings, dict):
        raise UserError(f"{folder / 'config.json'} must hold the settings of a run")
    return settings
