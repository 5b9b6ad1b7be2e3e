"""A run's trained model again, from its folder: the configuration, the weights, and the data that it is judged on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from sparseout.studies.catalogue import STUDIES
from sparseout.studies.config import Config, UserError
from sparseout.studies.records import WEIGHTS, Record, read_json, read_lines
from sparseout.studies.study import Study


@dataclasses.dataclass(frozen=True)
class Trained:
    """A run that has ended.

    Attributes:
        study: the experiment.
        config: the run's settings.
        data: what it was trained and is judged on.
        network: with the run's weights, on the CPU.
        summary: its record.
        history: its epochs.
    """

    study: Study
    config: Config
    data: Any
    network: nn.Module
    summary: Record
    history: list[Record]


def trained(folder: Path, data_dir: Path | None = None) -> Trained:
    """The run in `folder`, with its study's data from `data_dir` or where it comes from by default. No pickle is read.

    Raises:
        UserError: the folder is no complete run of a study that is known, or its files are damaged.
    """
    if not (folder / "summary.json").is_file():
        raise UserError(f"{folder} must be the folder of a complete run, with config.json, {WEIGHTS} and summary.json")
    settings, summary = read_json(folder / "config.json"), read_json(folder / "summary.json")
    study = STUDIES.get(settings.get("study", ""))
    if study is None:
        raise UserError(f"{folder / 'config.json'} must be of a study that is known, got {settings.get('study')!r}")
    fields = {field.name: settings.get(field.name, field.default) for field in dataclasses.fields(study.config)}
    try:
        config = study.config(**fields)
    except (TypeError, ValueError) as error:
        raise UserError(f"{folder / 'config.json'}: {error}") from error
    data = study.load(config, data_dir)
    network = study.model(config, data)
    try:
        network.load_state_dict(load_file(folder / WEIGHTS))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UserError(f"{folder / WEIGHTS} are no weights of this run: {str(error).splitlines()[0]}") from error
    return Trained(study, config, data, network, summary, read_lines(folder / "metrics.jsonl"))
