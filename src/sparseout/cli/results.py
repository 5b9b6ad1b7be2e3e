"""The command `sparseout results`: the results of a study as statistics, as a list of runs, or as files for other tools."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from sparseout import report
from sparseout.errors import UserError
from sparseout.extras import needed_for
from sparseout.records.choice import read_choice, tuned_settings
from sparseout.records.files import Location, check_writable, is_file, write_atomic
from sparseout.records.identity import settings_of
from sparseout.records.json_lines import lines
from sparseout.records.schema import Record, read_summary
from sparseout.records.scores import SCORES
from sparseout.report import statistics
from sparseout.report.equal_sparsity import compare_at_equal_sparsity, equal_sparsity_notes, equal_sparsity_table
from sparseout.report.settings import (
    Curve,
    Setting,
    curves_of,
    describe_curve,
    dial_of,
    dials_of,
    group_by_setting,
    varying_names,
)
from sparseout.report.table import add_target_columns, columns_of
from sparseout.runs.options import location
from sparseout.runs.progress import print_left_out, terminal
from sparseout.training.folders import RESULTS as RESULTS_FILE
from sparseout.training.folders import STUDY, StudyFolder, read_study

if TYPE_CHECKING:
    import pandas


def results(
    folder: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="DIR|URL")]],
    conditions: Annotated[tuple[str, ...], tyro.conf.arg(name="filter", metavar="NAME=VALUE ...")] = (),
    score: Annotated[str | None, tyro.conf.arg(metavar="|".join((*SCORES, "NAME")))] = None,
    runs: bool = False,
    csv: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None,
    parquet: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None,
) -> None:
    """Compare the settings of a study: means over seeds with 95 % intervals, and the conclusions that the data support.

    Args:
        folder: folder of a study or a sweep, or any folder with a results.jsonl
        conditions: use only runs with these settings; commas separate several values of a setting
        score: result to compare, NAME being a score of your own study; by default the score that a tuned sweep fixed, else
            NAME, else the first of these in the records
        runs: list each run instead
        csv: write a row per run to this file
        parquet: write a row per run to this file, in Parquet
    """
    console = terminal()
    check_writable({"--csv": csv, "--parquet": parquet})
    found, failures, left_out = read(location(folder))
    print_left_out(left_out)
    choice = read_choice(location(folder))
    records = filtered(found, conditions)
    if not records:
        raise UserError(f"{folder} has no complete run" + (f" with {' and '.join(conditions)}" if found else ""))
    for path, write in ((csv, _csv), (parquet, _parquet)):
        if path:
            try:
                write_atomic(path, write(frame(records)))
            except OSError as error:
                raise UserError(f"{path} could not be written: {error.strerror or error}") from error
            console.print(f"{len(records)} runs: {path}", soft_wrap=True)
    if csv or parquet:
        return
    if runs:
        header, rows = _runs(records)
        _print(header, rows)
        return
    groups = group_by_setting(records, tuned_settings(choice))
    score = score if score is not None else statistics.score_of(records, choice)
    if score not in (have := statistics.recorded_scores(records)):
        raise UserError(f"score must be one of {', '.join(map(repr, have))} here, got {score!r}")
    curves = curves_of(groups)
    named = labelled(curves)
    _print(*add_target_columns(*statistics.estimates_table(named, score), [setting for _, setting in named]))
    for curve in curves:
        if curve.axis == "target_sparsity":
            console.print(describe_curve(curve), soft_wrap=True)
    for comparison in statistics.compare_with_dropout(groups, score):
        console.print(comparison.sentence(), soft_wrap=True)
    comparisons = compare_at_equal_sparsity(records, score)
    if comparisons:
        print()
        _print(*equal_sparsity_table(comparisons))
    for note in equal_sparsity_notes(records, comparisons):
        console.print(note, soft_wrap=True)
    if choice:
        _print(*report.tuning_table(choice))
        for line in report.tuning_sentences(choice, found):
            console.print(line, soft_wrap=True)
    console.print(f"{len(records)} runs of {len(found)} in {folder}.", soft_wrap=True)
    for failure in failures:
        text = f"Failed: {failure['run']}: {failure['reason']}\n  {failure['command']}"
        console.print(text, soft_wrap=True)


def read(folder: Location) -> tuple[list[Record], list[Record], list[str]]:
    """Return the summaries of the complete runs in a folder, the records of the failed ones, and why others are left out.

    Raises:
        UserError: the folder is not a study's and has no results.jsonl.
    """
    if is_file(folder / STUDY):
        study = StudyFolder(folder, read_study(folder))
        summaries, failures = study.summaries(), study.failures()
        return summaries, failures, list(study.left_out.values())
    if not is_file(folder / RESULTS_FILE):
        raise UserError(f"{folder} must be the folder of a study, with its {STUDY} or its {RESULTS_FILE}")
    summaries, left_out = read_results(folder / RESULTS_FILE)
    return summaries, [], left_out


def read_results(path: Location) -> tuple[list[Record], list[str]]:
    """Return the summaries in a `results.jsonl`, each run once, and why other lines are left out.

    Raises:
        UserError: the file cannot be read.
    """
    found: dict[str, Record] = {}
    left_out = []
    for name, line in lines(path):
        try:
            record = read_summary(line, name)
            if record["run"] in found:
                raise UserError(f"{name}: run: {record['run']} has an earlier line")
            found[record["run"]] = record
        except UserError as error:
            left_out.append(str(error))
    return list(found.values()), left_out


def filtered(records: Sequence[Record], conditions: Sequence[str]) -> list[Record]:
    """Return the records whose settings meet all `conditions`, such as `"q=2,2.5"`.

    Raises:
        UserError: a condition has another form, or names no setting.

    >>> filtered([{"q": 1.5, "seed": 0}, {"q": 2.0, "seed": 0}], ["q=2,2.5", "seed=0"])
    [{'q': 2.0, 'seed': 0}]
    """
    known = list(dict.fromkeys(name for record in records for name in ("run", *settings_of(record))))
    tests: list[Callable[[Record], bool]] = []
    for condition in conditions:
        name, equals, values = condition.partition("=")
        if not equals:
            raise UserError(f"--filter must be NAME=VALUE, got {condition!r}")
        if records and name not in known:
            close = difflib.get_close_matches(name, known, 1, 0.0)[0]
            raise UserError(f"--filter must name a setting, got {name!r}: did you mean {close}?")
        wanted = [_value(value) for value in values.split(",")]
        tests.append(lambda record, name=name, wanted=wanted: record.get(name) in wanted)  # type: ignore[misc]
    return [record for record in records if all(test(record) for test in tests)]


def _value(text: str) -> Any:
    """Return `text` as a number, true, false or null if it is one, else as it is."""
    try:
        return json.loads(text)
    except (RecursionError, ValueError):
        return text


def labelled(curves: Sequence[Curve]) -> list[tuple[str, Setting]]:
    """Return the settings in the order of their curves, each with a label that distinguishes it."""
    several = len(curves) > 1
    found = []
    for curve in curves:
        for setting in curve.settings:
            name = setting.name if curve.axis else ""
            found.append((", ".join(filter(None, (name, curve.label if several or not name else ""))), setting))
    return found


def frame(records: Sequence[Record]) -> pandas.DataFrame:
    """Return a table with a row per run and a column per value. Dots join nested names; lists, such as profiles, are left out."""
    with needed_for("a table in a file", "data"):
        import pandas

    return pandas.DataFrame([_flat(record) for record in records])


def _flat(record: Mapping[str, Any], prefix: str = "") -> Record:
    flat: Record = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        elif not isinstance(value, list):
            flat[prefix + name] = value
    return flat


def _csv(rows: pandas.DataFrame) -> bytes:
    text: str = rows.to_csv(index=False)
    return text.encode()


def _parquet(rows: pandas.DataFrame) -> bytes:
    content: bytes = rows.to_parquet(index=False)
    return content


def _runs(records: Sequence[Record]) -> tuple[list[str], list[list[str]]]:
    """Return a header and a row per run: its name, its `q` or other dial (the last value with a target), settings, results."""
    dials = dials_of(records)
    names = [name for name in varying_names(group_by_setting(records)) if name not in dials]
    names += ["target_sparsity"] if any("target_sparsity" in record for record in records) else []
    shown = [name for name in columns_of(records) if any(name in record for record in records)]
    header = ["run", *dials, *(name.replace("_", " ") for name in names), "seed", *(name.replace("_", " ") for name in shown)]
    rows = []

    def position(record: Record) -> tuple[Any, ...]:
        return *(str(record.get(name)) for name in names), *dial_of(record).items(), record["seed"]

    for record in sorted(records, key=position):
        values = [f"{dial_of(record)[name]:.4g}" if name in dial_of(record) else "-" for name in dials]
        numbers = ["-" if (value := record.get(name)) is None else f"{value:.4g}" for name in shown]
        varied = [str(record.get(name, "-")) for name in names]
        rows.append([record["run"], *values, *varied, str(record["seed"]), *numbers])
    return header, rows


def _print(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print aligned columns. A table of the terminal library would take seconds for thousands of rows."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, ["-" * width for width in widths], *rows):
        first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join((row[0].ljust(len(first)), *others)))
