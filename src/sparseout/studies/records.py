"""What a run leaves on disk: a folder of plain files, each written whole or not at all, and the study's view of them."""

from __future__ import annotations

import datetime
import functools
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

import sparseout
from sparseout.report.files import Location, clear_half_written, finite, write_whole
from sparseout.studies.config import Config, UserError

Record = dict[str, Any]
CHECKPOINT = "checkpoint.safetensors"
WEIGHTS = "weights.safetensors"
SUMMARY = "summary.json"
FAILURE = "failure.json"


def to_json(record: Any) -> str:
    """`record` in JSON, which has no NaN: those become null."""
    return json.dumps(finite(record), allow_nan=False)


class StudyFolder:
    """A study's output: `study.json` says whose it is, each run has a folder, `results.jsonl` is the view of them.

    Any number of processes may write runs into it. Nothing is made before `open`.

    Raises:
        UserError: `path` holds something else.
    """

    def __init__(self, path: Location, study: str) -> None:
        self.path = path
        self.study = study
        self._records: dict[str, Record] = {}
        if path.exists() and not path.is_dir():
            raise UserError(f"--out must be a folder, got the file {path}")
        if self._is_marked():
            found = read_json(path / "study.json").get("study")
            if found != study:
                raise UserError(f"--out must be a folder of the study {study!r}: {path} holds the study {found!r}")
        elif path.is_dir() and any(not entry.name.endswith(".part") for entry in path.iterdir()):
            raise UserError(f"--out must be a new folder, an empty one, or this study's: {path} holds something else")

    def _is_marked(self) -> bool:
        return (self.path / "study.json").is_file()

    def open(self) -> None:
        """Make the folder.

        Raises:
            UserError: it cannot be written.
        """
        if self._is_marked():
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_whole(self.path / "study.json", to_json({"study": self.study}).encode())
        except OSError as error:
            raise UserError(f"--out must be a folder that can be written: {self.path}: {error.strerror or error}") from error

    def run(self, config: Config) -> RunFolder:
        """The folder of one run."""
        return RunFolder(self.path / config.folder, config)

    def complete(self) -> dict[str, Record]:
        """The summaries of all complete runs, by their folders' names; one that was read is not read again."""
        found = set(_having(self.path, SUMMARY))
        self._records = {name: record for name, record in self._records.items() if name in found}
        self._records |= read_each(self.path, sorted(found - set(self._records)), SUMMARY)
        return self._records

    def summaries(self) -> list[Record]:
        """The summaries of all complete runs, sorted by run."""
        return sorted(self.complete().values(), key=lambda record: str(record["run"]))

    def failures(self) -> list[Record]:
        """What is known of the runs that failed, and were not completed since."""
        complete = self.complete()
        names = sorted(name for name in _having(self.path, FAILURE) if name not in complete)
        return list(read_each(self.path, names, FAILURE).values())

    def histories(self) -> Mapping[str, list[Record]]:
        """Each complete run's epochs, by run, read when they are asked for."""
        return Histories(self.path, {str(record["run"]): name for name, record in self.complete().items()})

    def write_question(self, question: bytes) -> None:
        """Keep the file that asked for the runs, as `sweep.toml`."""
        write_whole(self.path / "sweep.toml", question)

    def write_results(self) -> list[Record]:
        """Rebuild `results.jsonl`, the summaries a line each, and return them; complete runs need no checkpoint any more."""
        records = self.summaries()
        for name in _having(self.path, CHECKPOINT):
            if name in self._records:
                (self.path / name / CHECKPOINT).unlink(missing_ok=True)
        write_whole(self.path / "results.jsonl", "".join(to_json(record) + "\n" for record in records).encode())
        return records


class Histories(Mapping[str, list[Record]]):
    """The epochs of runs, by run.

    Args:
        path: the study's folder.
        folders: the names of the runs' folders in it, by run.
    """

    def __init__(self, path: Location, folders: Mapping[str, str]) -> None:
        self.path = path
        self.folders = folders

    def __getitem__(self, run: str) -> list[Record]:
        return read_lines(self.path / self.folders[run] / "metrics.jsonl")

    def __iter__(self) -> Iterator[str]:
        return iter(self.folders)

    def __len__(self) -> int:
        return len(self.folders)


class RunFolder:
    """One run's files: `config.json`, `metrics.jsonl`, `weights.safetensors`, and last of all `summary.json`.

    Two processes that train the same run, such as one that a cluster has given up and its successor, write the same content:
    each file is written whole, from what its writer knows, and never from what it finds.
    """

    def __init__(self, path: Location, config: Config) -> None:
        self.path = path
        self.config = config
        self._epochs: list[bytes] = []

    def is_complete(self) -> bool:
        """Whether the run has ended: its summary is written last."""
        return (self.path / SUMMARY).is_file()

    def open(self) -> None:
        """Make the folder, and clear what a killed run left half written, and why it failed when it last did."""
        self.path.mkdir(parents=True, exist_ok=True)
        if isinstance(self.path, Path):
            clear_half_written(self.path)
        write_whole(self.path / "config.json", to_json({**self.config.to_dict(), "run": self.config.run}).encode())
        (self.path / FAILURE).unlink(missing_ok=True)

    def keep_epochs(self, count: int) -> None:
        """Cut `metrics.jsonl` to its first `count` epochs."""
        path = self.path / "metrics.jsonl"
        self._epochs = path.read_bytes().splitlines(keepends=True)[:count] if path.exists() else []
        write_whole(path, b"".join(self._epochs))

    def add_epoch(self, metrics: Record) -> None:
        """Add an epoch to `metrics.jsonl`."""
        self._epochs.append(f"{to_json(metrics)}\n".encode())
        write_whole(self.path / "metrics.jsonl", b"".join(self._epochs))

    def write_failure(self, reason: str, command: str, trace: str) -> None:
        """Record why the run ended before its end, and the command that repeats it."""
        self.path.mkdir(parents=True, exist_ok=True)
        record = {"run": self.config.run, "reason": reason, "command": command, "traceback": trace}
        write_whole(self.path / FAILURE, to_json(record).encode())

    def write_summary(self, results: Record, seconds: float, device: torch.device, processes: int) -> Record:
        """End the run: its settings, its results, how long it took, on what, and in how many processes."""
        config = self.config.to_dict()
        summary = {
            "study": config.pop("study"),
            "run": self.config.run,
            **config,
            **results,
            "seconds": round(seconds, 3),
            "provenance": {**provenance(self.config.command, device), "processes": processes},
        }
        write_whole(self.path / SUMMARY, to_json(summary).encode())
        return summary


def provenance(command: str, device: torch.device) -> Record:
    """Where numbers come from: versions, machine, date, and the command that repeats it."""
    return {
        "sparseout": sparseout.__version__,
        "commit": _commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": command,
    }


def read_lines(path: Location) -> list[Record]:
    """The records of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def read_json(path: Location) -> Record:
    """The object in a JSON file of a run.

    Raises:
        UserError: it cannot be read, or is no object.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    return _object(path, content)


def read_each(path: Location, names: list[str], file: str) -> dict[str, Record]:
    """The objects in the file called `file` of each of the folders `names` in `path`, by folder.

    Raises:
        UserError: one cannot be read, or is no object.
    """
    if isinstance(path, Path):
        return {name: read_json(path / name / file) for name in names}
    contents = path.fs.cat([f"{path.path}/{name}/{file}" for name in names]) if names else {}
    return {name: _object(path / name / file, contents[f"{path.path}/{name}/{file}"]) for name in names}


def _object(path: Location, content: bytes) -> Record:
    try:
        record = json.loads(content)
    except ValueError as error:
        raise UserError(f"{path} cannot be read as JSON ({error}): delete its folder to run that again") from error
    if not isinstance(record, dict):
        raise UserError(f"{path} must hold a JSON object, got a {type(record).__name__}")
    return record


def _having(path: Location, file: str) -> list[str]:
    """The names of the folders in `path` that have a file called `file`."""
    if isinstance(path, Path):
        return [name for name in os.listdir(path) if os.path.exists(f"{path}/{name}/{file}")] if path.is_dir() else []
    return [found.split("/")[-2] for found in path.fs.glob(f"{path.path}/*/{file}")]


@functools.cache
def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


@functools.cache
def _commit() -> str | None:
    """The commit of the checkout that the package runs from, with a + if it was changed; None if it is installed."""
    package = Path(sparseout.__file__).parent
    if package.parent.name != "src":
        return None
    try:
        arguments = ["git", "-C", str(package), "describe", "--always", "--exclude=*", "--abbrev=12", "--dirty=+"]
        return subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
