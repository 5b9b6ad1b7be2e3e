"""Load a trained run from its folder: the configuration, the network with its weights, and the data."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from sparseout.errors import FolderError, UserError
from sparseout.notebook import page
from sparseout.records.files import is_file
from sparseout.records.identity import settings_of
from sparseout.records.schema import Record, RunSettings
from sparseout.records.tables import number
from sparseout.report.table import columns_of
from sparseout.studies.registry import STUDIES, is_source
from sparseout.training.config import Config
from sparseout.training.folders import CONFIG, SUMMARY, WEIGHTS, check_name, read_epochs, read_file, read_run
from sparseout.training.study import Study

STUDY_FLAG = "--study"  # of the commands `evaluate` and `probe`


@dataclasses.dataclass(frozen=True, repr=False)
class LoadedRun:
    """A complete run.

    Attributes:
        study: the run's study.
        config: the run's settings.
        data: the study's data, for training and evaluation.
        network: the network with the run's weights, on the CPU.
        summary: the content of `summary.json`.
        folder: the run's folder.
    """

    study: Study
    config: Config
    data: Any
    network: nn.Module
    summary: Record
    folder: Path

    def __repr__(self) -> str:
        return f"LoadedRun {self.folder.name}: {', '.join(f'{name} {text}' for name, text in self._scores())}"

    def _repr_html_(self) -> str:
        return page([f"Run {self.folder.name}"], [("result", "value"), *self._scores()], [f"in {self.folder}"], 1)

    def _scores(self) -> list[tuple[str, str]]:
        """Return the names and values of the run's results."""
        names = [name for name in columns_of([self.summary]) if name in self.summary]
        return [(name.replace("_", " "), number(self.summary[name])) for name in names]

    @property
    def history(self) -> list[Record]:
        """The run's epochs, a record each.

        Raises:
            UserError: the file cannot be read.
        """
        return read_epochs(self.folder)


def load_run(folder: Path, data_dir: Path | None = None, own: Study | None = None) -> LoadedRun:
    """Load the run in `folder`, with its study's data from `data_dir` or from the default source. No pickle is read.

    Code is imported from no record: a run of a study that is not built in needs the study itself.

    Args:
        folder: the run's folder.
        data_dir: folder with the data set's files.
        own: a study that is not built in.

    Raises:
        FolderError: the folder is not a complete run, or its files are damaged or belong to different runs.
        UserError: the run is of another study, or the data is missing.
    """
    if not all(is_file(folder / name) for name in (CONFIG, SUMMARY, WEIGHTS)):
        raise FolderError(f"{folder} must be the folder of a complete run, with {CONFIG}, {WEIGHTS} and {SUMMARY}")
    folder = folder.resolve()  # '.' has no name, and a link has another name
    study, config = _configured(folder, own)
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


def _configured(folder: Path, own: Study | None) -> tuple[Study, Config]:
    """Return the study and the configuration of a run; a setting that its file lacks has the default."""
    path = folder / CONFIG
    try:
        settings = read_file(path, RunSettings)
    except UserError as error:
        raise FolderError(str(error)) from error
    study = own if own is not None and own.config.study == settings["study"] else STUDIES.get(settings["study"])
    if study is None:
        known = ", ".join(map(repr, STUDIES))
        advice = f": {STUDY_FLAG} {_source(folder)} imports a study of your own"
        raise UserError(f"{path}: study must be one of {known}, got {settings['study']!r}{advice}")
    names = {field.name for field in dataclasses.fields(study.config)}
    try:
        config = study.config(**{name: value for name, value in settings.items() if name in names})
    except (TypeError, ValueError) as error:
        raise FolderError(f"{path}: {error}") from error
    allowed = {"run": settings["run"], **config.to_dict()}  # the hash of an older run lacks newer settings
    for name, value in settings.items():
        if name not in allowed or allowed[name] != value:
            raise FolderError(f"{path}: {name}: no run of this study has {value!r}")
    return study, config


def _source(folder: Path) -> str:
    """Return the name that imported a run's study, from the run's command, to show it to the user."""
    try:
        words = shlex.split(read_run(folder)["provenance"]["command"])
    except (UserError, ValueError):
        words = []
    return words[2] if len(words) > 2 and is_source(words[2]) else "module:OBJECT"


def _load_weights(network: nn.Module, path: Path, run: str) -> None:
    try:
        with safe_open(path, framework="pt") as file:
            owner = (file.metadata() or {}).get("run", run)  # earlier versions did not write it
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, RuntimeError) as error:
        raise FolderError(f"{path} does not hold the weights of this run: {_line(error)}") from error
    if owner != run:
        raise FolderError(f"{path} has the weights of the run {owner}, not of {run}")
    try:
        _check_types(network, tensors)
        network.load_state_dict(tensors)
    except (RuntimeError, TypeError) as error:
        raise FolderError(f"{path} does not hold the weights of this run: {_line(error)}") from error


def _check_types(network: nn.Module, tensors: dict[str, Tensor]) -> None:
    for name, own in network.state_dict().items():
        if name in tensors and tensors[name].dtype != own.dtype:
            raise TypeError(f"{name} must be of {own.dtype}, got {tensors[name].dtype}")


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
