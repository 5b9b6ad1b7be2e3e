"""A run's trained model again, from its folder: the configuration, the weights, and the data that it is evaluated on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from sparseout.errors import FolderError, UserError
from sparseout.records.files import is_file
from sparseout.records.identity import settings_of
from sparseout.records.schema import Record, RunSettings
from sparseout.studies.registry import STUDIES
from sparseout.training.config import Config
from sparseout.training.folders import CONFIG, SUMMARY, WEIGHTS, check_name, read_epochs, read_file, read_run
from sparseout.training.study import Study


@dataclasses.dataclass(frozen=True)
class LoadedRun:
    """A run that has ended.

    Attributes:
        study: the experiment.
        config: the run's settings.
        data: what it was trained and is evaluated on.
        network: with the run's weights, on the CPU.
        summary: its record.
        folder: that it is in.
    """

    study: Study
    config: Config
    data: Any
    network: nn.Module
    summary: Record
    folder: Path

    @property
    def history(self) -> list[Record]:
        """Its epochs.

        Raises:
            UserError: they cannot be read.
        """
        return read_epochs(self.folder)


def load_run(folder: Path, data_dir: Path | None = None) -> LoadedRun:
    """The run in `folder`, with its study's data from `data_dir` or where it comes from by default. No pickle is read.

    Raises:
        FolderError: the folder is no complete run of a study that is known, its files are damaged, or they are not of one run.
        UserError: the data is missing.
    """
    if not all(is_file(folder / name) for name in (CONFIG, SUMMARY, WEIGHTS)):
        raise FolderError(f"{folder} must be the folder of a complete run, with {CONFIG}, {WEIGHTS} and {SUMMARY}")
    folder = folder.resolve()  # '.' has no name, and a link has another
    study, config = _configured(folder)
    try:
        summary = read_run(folder)
    except UserError as error:
        raise FolderError(str(error)) from error
    data = study.load(config, data_dir)
    network = study.model(config, data)
    try:
        _load_weights(network, folder / WEIGHTS, summary["run"])
        check_name(folder, settings_of(summary))
    except UserError as error:
        raise FolderError(str(error)) from error
    return LoadedRun(study, config, data, network, summary, folder)


def _configured(folder: Path) -> tuple[Study, Config]:
    """The study and the configuration that the settings of a run ask for; one that is not among them has its default."""
    path = folder / CONFIG
    try:
        settings = read_file(path, RunSettings)
    except UserError as error:
        raise FolderError(str(error)) from error
    study = STUDIES.get(settings["study"])
    if study is None:
        raise FolderError(f"{path} must be of a study that is known, got {settings['study']!r}")
    names = {field.name for field in dataclasses.fields(study.config)}
    try:
        config = study.config(**{name: value for name, value in settings.items() if name in names})
    except (TypeError, ValueError) as error:
        raise FolderError(f"{path}: {error}") from error
    made = {"run": settings["run"], **config.to_dict()}  # settings that came later are not in the hash
    for name, value in settings.items():
        if name not in made or made[name] != value:
            raise FolderError(f"{path}: {name}: no run of this study has {value!r}")
    return study, config


def _load_weights(network: nn.Module, path: Path, run: str) -> None:
    try:
        with safe_open(path, framework="pt") as file:
            of = (file.metadata() or {}).get("run", run)  # earlier versions did not write it
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, RuntimeError) as error:
        raise FolderError(f"{path} are no weights of this run: {_line(error)}") from error
    if of != run:
        raise FolderError(f"{path} has the weights of the run {of}, not of {run}")
    try:
        _check_types(network, tensors)
        network.load_state_dict(tensors)
    except (RuntimeError, TypeError) as error:
        raise FolderError(f"{path} are no weights of this run: {_line(error)}") from error


def _check_types(network: nn.Module, tensors: dict[str, Tensor]) -> None:
    for name, own in network.state_dict().items():
        if name in tensors and tensors[name].dtype != own.dtype:
            raise TypeError(f"{name} must be of {own.dtype}, got {tensors[name].dtype}")


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
