"""Results that are known: records of a `results.jsonl` take the place of runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sparseout.errors import UserError
from sparseout.records.files import write_atomic
from sparseout.records.json_lines import lines, to_json
from sparseout.records.provenance import versions
from sparseout.records.schema import Record, read_summary
from sparseout.training.config import Config
from sparseout.training.folders import SUMMARY, RunFolder


def known_records(files: Sequence[Path], configs: Sequence[Config], any_version: bool) -> dict[str, Record]:
    """Return the records of those `configs` that stand in `files`, by run.

    Args:
        files: `results.jsonl` files.
        configs: the runs.
        any_version: also accept the records of other versions of sparseout and torch.

    Raises:
        UserError: a file cannot be read, one of its records is damaged or was edited, or a run's record is of another version or
            differs from another record of the run.
    """
    requested = {config.run for config in configs}
    found: dict[str, Record] = {}
    for file in files:
        for name, line in lines(file):
            record = read_summary(line, f"--known {name}")
            run = record["run"]
            if run not in requested:
                continue
            if not any_version:
                _check_version(record, name)
            if numbers(found.setdefault(run, record)) != numbers(record):
                raise UserError(f"--known {name}: the run {run} has another record with other results")
    return found


def numbers(record: Record) -> Record:
    """Return a record without what differs between two runs of the same numbers."""
    return {name: value for name, value in record.items() if name not in ("seconds", "provenance")}


def _check_version(record: Record, name: str) -> None:
    origin, here = record["provenance"], versions()
    for trained_by in (origin, *origin.get("trained_by", ())):
        other = [f"{package} {trained_by.get(package)}" for package in here if trained_by.get(package) != here[package]]
        if other:
            text = " and ".join(f"{package} {version}" for package, version in here.items())
            raise UserError(
                f"--known {name}: the run {record['run']} is of {' and '.join(other)}, and this is {text}: "
                "--known-any-version takes it over"
            )


def take_over(folder: RunFolder, record: Record) -> None:
    """Complete a run with its known record, which keeps its provenance. The run has no epochs and no weights."""
    folder.open()
    folder.truncate_history(0)
    write_atomic(folder.path / SUMMARY, to_json(record).encode())
