"""What a run leaves on disk: a folder of plain files, each written whole or not at all, and the study's view of them."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

import sparseout
from sparseout.report.files import finite, write_whole
from sparseout.studies.config import Config, UserError

Record = dict[str, Any]
CHECKPOINT = "checkpoint.safetensors"


def to_json(record: Any) -> str:
    """`record` in JSON, which has no NaN: those become null."""
    return json.dumps(finite(record), allow_nan=False)


class StudyFolder:
    """A study's output: `study.json` says whose it is, each run has a folder, `results.jsonl` is the view of them.

    Raises:
        UserError: `path` holds something else.
    """

    def __init__(self, path: Path, study: str) -> None:
        self.path = path
        marker = path / "study.json"
        if path.exists() and not path.is_dir():
            raise UserError(f"--out must be a folder, got the file {path}")
        if marker.is_file():
            found = _read_json(marker).get("study")
            if found != study:
                raise UserError(f"--out must be a folder of the study {study!r}: {path} holds the study {found!r}")
            return
        if path.is_dir() and any(path.iterdir()):
            raise UserError(f"--out must be a new folder, an empty one, or this study's: {path} holds something else")
        try:
            path.mkdir(parents=True, exist_ok=True)
            write_whole(marker, to_json({"study": study}).encode())
        except OSError as error:
            raise UserError(f"--out must be a folder that can be written: {path}: {error.strerror}") from error

    def run(self, config: Config) -> RunFolder:
        """The folder of one run."""
        return RunFolder(self.path / config.folder, config)

    def summaries(self) -> list[Record]:
        """The summaries of all complete runs, sorted by run."""
        return sorted((_read_json(path) for path in self.path.glob("*/summary.json")), key=lambda record: str(record["run"]))

    def histories(self) -> dict[str, list[Record]]:
        """Each complete run's epochs, by run."""
        return {
            str(_read_json(path)["run"]): read_lines(path.with_name("metrics.jsonl")) for path in self.path.glob("*/summary.json")
        }

    def write_results(self) -> list[Record]:
        """Rebuild `results.jsonl`, the summaries a line each, and return them; complete runs need no checkpoint any more."""
        records = self.summaries()
        for summary in self.path.glob("*/summary.json"):
            summary.with_name(CHECKPOINT).unlink(missing_ok=True)
        write_whole(self.path / "results.jsonl", "".join(to_json(record) + "\n" for record in records).encode())
        return records


class RunFolder:
    """One run's files: `config.json`, `metrics.jsonl`, `weights.safetensors`, and last of all `summary.json`."""

    def __init__(self, path: Path, config: Config) -> None:
        self.path = path
        self.config = config

    def is_complete(self) -> bool:
        """Whether the run has ended: its summary is written last."""
        return (self.path / "summary.json").is_file()

    def open(self) -> None:
        """Make the folder, and clear what a killed run left half written."""
        self.path.mkdir(parents=True, exist_ok=True)
        for part in self.path.glob(".*.part"):
            part.unlink()
        write_whole(self.path / "config.json", to_json({**self.config.to_dict(), "run": self.config.run}).encode())

    def keep_epochs(self, count: int) -> None:
        """Cut `metrics.jsonl` to its first `count` epochs."""
        path = self.path / "metrics.jsonl"
        lines = path.read_bytes().splitlines(keepends=True)[:count] if path.exists() else []
        write_whole(path, b"".join(lines))

    def add_epoch(self, metrics: Record) -> None:
        """Append an epoch to `metrics.jsonl`."""
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(to_json(metrics) + "\n")

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
        write_whole(self.path / "summary.json", to_json(summary).encode())
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


def read_lines(path: Path) -> list[Record]:
    """The records of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def _read_json(path: Path) -> Record:
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read as JSON ({error}): delete its folder to run that again") from error
    if not isinstance(record, dict):
        raise UserError(f"{path} must hold a JSON object, got a {type(record).__name__}")
    return record


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


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
