"""The files of a study: a folder of plain, atomically written files for each run, and a view over all runs."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from sparseout.errors import UserError
from sparseout.records.choice import CHOICE
from sparseout.records.files import (
    Contents,
    Location,
    content_of,
    folders_with,
    is_file,
    read_bytes,
    read_files,
    remove_stale_parts,
    write_atomic,
)
from sparseout.records.identity import folder_of, run_of, settings_of
from sparseout.records.json_lines import lines, to_json
from sparseout.records.provenance import dated
from sparseout.records.schema import Epoch, Failure, Marker, Record, check_results, read, read_settings, read_summary
from sparseout.training.config import Config

CHECKPOINT = "checkpoint.safetensors"
CONFIG = "config.json"
STUDY = "study.json"
EPOCHS = "metrics.jsonl"
RESULTS = "results.jsonl"
WEIGHTS = "weights.safetensors"
SUMMARY = "summary.json"
TUNE = "tune"  # folder of a study's tuning runs, itself the folder of a study
FIGURES = ("sparsity.png", "methods.png", "tuning.png")
VIEWS = (RESULTS, CHOICE, "report.html", *FIGURES, "sweep.toml")  # files of a sweep, beside its runs
FAILURE = "failure.json"


class StudyFolder:
    """The output folder of a study: `study.json` names the study, each run has a folder, `results.jsonl` lists their results.

    Any number of processes may write runs into the folder. Nothing is written before `open`.

    Attributes:
        left_out: the fault of each run folder that is damaged or holds another run, by the folder's name.

    Raises:
        UserError: `path` holds something else.
    """

    def __init__(self, path: Location, study: str) -> None:
        self.path = path
        self.study = study
        self.left_out: dict[str, str] = {}
        self._records: dict[str, Record] = {}
        if path.exists() and not path.is_dir():
            raise UserError(f"--out must be a folder, got the file {path}")
        if isinstance(path, Path) and (file := next((parent for parent in path.parents if parent.is_file()), None)):
            raise UserError(f"--out must be a folder that can be written: {path}: {file} is a file")
        if self._is_marked():
            found = read_study(path)
            if found != study:
                raise UserError(f"--out must be a folder of the study {study!r}: {path} holds the study {found!r}")
        elif path.is_dir() and any(not entry.name.endswith(".part") and entry.name != TUNE for entry in path.iterdir()):
            raise UserError(f"--out must be a new folder, an empty one, or this study's: {path} holds something else")

    def _is_marked(self) -> bool:
        return is_file(self.path / STUDY)

    def open(self) -> None:
        """Create the folder and `study.json`.

        Raises:
            UserError: the folder cannot be written, or one of the files that a sweep writes at its end is a folder.
        """
        for name in VIEWS:
            if (self.path / name).is_dir():
                raise UserError(f"--out must be a folder that can be written: {self.path / name} is a folder, not a file")
        if self._is_marked():
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_atomic(self.path / STUDY, to_json({"study": self.study}).encode())
        except OSError as error:
            raise UserError(f"--out must be a folder that can be written: {self.path}: {error.strerror or error}") from error

    def run(self, config: Config) -> RunFolder:
        """Return the folder of one run."""
        return RunFolder(self.path / config.folder, config)

    def complete(self) -> dict[str, Record]:
        """Return the summaries of all complete runs, by folder name. A summary is read once and cached."""
        found = set(folders_with(self.path, SUMMARY))
        self._records = {name: record for name, record in self._records.items() if name in found}
        self.left_out = {}
        for name, contents in read_files(self.path, sorted(found - set(self._records)), (SUMMARY, CONFIG)):
            try:
                record = _named_summary(self.path / name, contents)
                if record["study"] != self.study:
                    raise UserError(f"{self.path / name} holds a run of the study {record['study']!r}")
                self._records[name] = record
            except UserError as error:
                self.left_out[name] = str(error)
        return self._records

    def mislabelled(self) -> dict[str, str]:
        """Return the fault of each incomplete run folder whose `config.json` belongs to another run, by folder name."""
        faults = {}
        names = [name for name in folders_with(self.path, CONFIG) if name not in self._records]
        for name, contents in read_files(self.path, names, (CONFIG,)):
            try:
                settings = read_settings(content_of(self.path / name, contents, CONFIG), self.path / name / CONFIG)
            except UserError:
                continue  # the run replaces damaged settings
            try:
                check_name(self.path / name, settings)
            except UserError as error:
                faults[name] = str(error)
        return faults

    def summaries(self) -> list[Record]:
        """Return the summaries of all complete runs, sorted by run."""
        return sorted(self.complete().values(), key=lambda record: str(record["run"]))

    def failures(self) -> list[Record]:
        """Return the failure records of runs that have not been completed since."""
        complete = self.complete()
        names = sorted(name for name in folders_with(self.path, FAILURE) if name not in complete and name not in self.left_out)
        failures = []
        for name, contents in read_files(self.path, names, (FAILURE,)):
            try:
                record = read(content_of(self.path / name, contents, FAILURE), Failure, self.path / name / FAILURE)
                if not name.endswith(f"-{record['run']}"):
                    raise UserError(f"{self.path / name / FAILURE}: run: must be that of the folder, got {record['run']!r}")
                failures.append(record)
            except UserError as error:
                self.left_out[name] = str(error)
        return failures

    def histories(self) -> Histories:
        """Return the epochs of each complete run, by run; they are read on access."""
        return Histories(self.path, {str(record["run"]): name for name, record in self.complete().items()})

    def write_spec(self, spec: bytes) -> None:
        """Write a copy of the sweep file as `sweep.toml`."""
        write_atomic(self.path / "sweep.toml", spec)

    def write_results(self) -> list[Record]:
        """Rebuild `results.jsonl`, one summary a line, and return the summaries. The checkpoints of complete runs are deleted."""
        records = self.summaries()
        for name in folders_with(self.path, CHECKPOINT):
            if name in self._records and is_file(self.path / name / CHECKPOINT):
                (self.path / name / CHECKPOINT).unlink(missing_ok=True)
        write_atomic(self.path / RESULTS, "".join(to_json(record) + "\n" for record in records).encode())
        return records


class Histories(Mapping[str, list[Record]]):
    """The epochs of runs, by run; an empty list if they cannot be read.

    Args:
        path: the study's folder.
        folders: names of the runs' folders, by run.

    Attributes:
        left_out: the fault of each run whose epochs could not be read, by the folder's name.
    """

    def __init__(self, path: Location, folders: Mapping[str, str]) -> None:
        self.path = path
        self.folders = folders
        self.left_out: dict[str, str] = {}

    def __getitem__(self, run: str) -> list[Record]:
        folder = self.folders[run]
        try:
            return read_epochs(self.path / folder)
        except UserError as error:
            self.left_out[folder] = str(error)
            return []

    def __iter__(self) -> Iterator[str]:
        return iter(self.folders)

    def __len__(self) -> int:
        return len(self.folders)


class RunFolder:
    """The files of one run: `config.json`, `metrics.jsonl`, `weights.safetensors`, and finally `summary.json`.

    Two processes may train the same run, for example after a cluster has restarted a run that was not dead. Both write the same
    content: each writes complete files from its own memory and never appends to files that it finds.
    """

    def __init__(self, path: Location, config: Config) -> None:
        self.path = path
        self.config = config
        self._epochs: list[bytes] = []

    def is_complete(self) -> bool:
        """Return whether the run has ended, which its summary shows because it is written last."""
        return bool((self.path / SUMMARY).is_file())

    def open(self) -> None:
        """Create the folder and `config.json`, and remove partly written files and the record of an earlier failure."""
        self.path.mkdir(parents=True, exist_ok=True)
        if isinstance(self.path, Path):
            remove_stale_parts(self.path)
        write_atomic(self.path / CONFIG, to_json({**self.config.to_dict(), "run": self.config.run}).encode())
        (self.path / FAILURE).unlink(missing_ok=True)

    def truncate_history(self, count: int) -> None:
        """Truncate `metrics.jsonl` to its first `count` epochs.

        Raises:
            UserError: the file has fewer epochs.
        """
        path = self.path / EPOCHS
        kept = list(itertools.islice(lines(path), count)) if count else []
        if len(_epochs(kept)) < count:
            raise UserError(f"{path} must have the {count} epochs of the checkpoint, got {len(kept)}: delete its folder")
        self._epochs = [line + b"\n" for _, line in kept]
        write_atomic(path, b"".join(self._epochs))

    def add_epoch(self, metrics: Record) -> None:
        """Append an epoch to `metrics.jsonl`."""
        self._epochs.append(f"{to_json(metrics)}\n".encode())
        write_atomic(self.path / EPOCHS, b"".join(self._epochs))

    def write_failure(self, reason: str, command: str, trace: str) -> None:
        """Record why the run failed, and the command that repeats it."""
        self.path.mkdir(parents=True, exist_ok=True)
        record = {"run": self.config.run, "reason": reason, "command": command, "traceback": trace}
        write_atomic(self.path / FAILURE, to_json(record).encode())

    def write_summary(self, results: Record, seconds: float, trained_by: Sequence[Record]) -> Record:
        """Complete the run: write and return its summary.

        Args:
            results: the results of the run.
            seconds: training time of the run.
            trained_by: `origin` of each session that trained the run, in order.

        Raises:
            UserError: a result is missing, has another type, or is none that a record has.
        """
        config, better = self.config.to_dict(), self.config.better
        summary = {
            "study": config.pop("study"),
            "run": self.config.run,
            **config,
            **results,
            **({"scores": dict(better)} if better else {}),
            "seconds": round(seconds, 3),
            "provenance": {**trained_by[-1], **dated(self.config.command), "trained_by": list(trained_by)},
        }
        check_results(results, better)
        content = to_json(summary).encode()
        read_summary(content, "the results of the run")
        write_atomic(self.path / SUMMARY, content)
        return summary


def read_study(path: Location) -> str:
    """Return the name of the study in the folder `path`, from its `study.json`.

    Raises:
        UserError: the file is damaged.
    """
    return str(read_file(path / STUDY, Marker)["study"])


def read_file(path: Location, kind: type) -> Record:
    """Read a file that holds one record of the given `kind`.

    Raises:
        UserError: the file cannot be read, or holds something else.
    """
    return read(content_of(path.parent, {path.name: read_bytes(path)}, path.name), kind, path)


def read_run(folder: Location) -> Record:
    """Read the summary of the complete run in `folder`, which may have any name.

    Raises:
        UserError: the folder is damaged, or its settings and its results belong to different runs.
    """
    ((_, contents),) = read_files(folder.parent, [folder.name], (SUMMARY, CONFIG))
    return _summary(folder, contents)


def read_lines(path: Location) -> list[Record]:
    """Read the records of a JSON-lines file.

    Raises:
        UserError: a line is not a record.
    """
    return [read(line, dict, name) for name, line in lines(path)]


def read_epochs(folder: Location) -> list[Record]:
    """Read the epochs of the run in `folder`.

    Raises:
        UserError: the epochs cannot be read, or are not numbered consecutively from 1.
    """
    return _epochs(lines(folder / EPOCHS))


def _epochs(numbered: Iterable[tuple[str, bytes]]) -> list[Record]:
    epochs = []
    for number, (name, line) in enumerate(numbered, 1):
        epochs.append(read(line, Epoch, name))
        if epochs[-1]["epoch"] != number:
            raise UserError(f"{name}: epoch: must be {number}, got {epochs[-1]['epoch']}")
    return epochs


def _summary(folder: Location, contents: Contents) -> Record:
    """Return the summary of the complete run in `folder`, from `contents`, after checking that its settings agree."""
    summary = read_summary(content_of(folder, contents, SUMMARY), folder / SUMMARY)
    if CONFIG in contents:
        run = run_of(read_settings(content_of(folder, contents, CONFIG), folder / CONFIG))
        if run != summary["run"]:
            raise UserError(f"{folder} holds two runs: {CONFIG} is of {run}, {SUMMARY} of {summary['run']}")
    return summary


def _named_summary(folder: Location, contents: Contents) -> Record:
    """Return the same summary after checking that the folder's name agrees too."""
    summary = _summary(folder, contents)
    check_name(folder, settings_of(summary))
    return summary


def check_name(folder: Location, settings: Record) -> None:
    """Raise `UserError` unless the folder has the name of the run with these settings."""
    if folder.name != (name := folder_of(settings)):
        raise UserError(f"{folder} holds the run {run_of(settings)}, whose folder is called {name}: rename it, or delete it")
