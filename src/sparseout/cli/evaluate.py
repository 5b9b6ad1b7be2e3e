"""The command `sparseout evaluate`: evaluate trained runs again on their study's test data."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table

from sparseout.errors import FolderError, UserError
from sparseout.progress import counting
from sparseout.records.files import is_file
from sparseout.records.json_lines import finite
from sparseout.records.schema import Record
from sparseout.records.tables import rich_table
from sparseout.report.table import columns_of
from sparseout.runs.load import LoadedRun, load_run
from sparseout.runs.options import check_data_dir, torch_device
from sparseout.runs.progress import print_left_out, terminal
from sparseout.runs.run import seeded_environment
from sparseout.studies.registry import find_study
from sparseout.training.folders import STUDY, StudyFolder, read_study
from sparseout.training.study import Study


def evaluate(
    runs: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="DIR ...")]],
    data_dir: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None,
    device: Annotated[str, tyro.conf.arg(metavar="NAME")] = "auto",
    study: Annotated[str | None, tyro.conf.arg(metavar="MODULE:OBJECT")] = None,
    json_lines: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Evaluate trained runs on their study's test data, and compare the scores with the runs' records.

    Args:
        runs: folders of complete runs, or of studies with complete runs
        data_dir: folder with the data set's files, as the study's --data-dir
        device: 'cpu', 'cuda' or any other device of torch; 'auto' is CUDA if it is available, else the CPU
        study: for runs of a study of your own, the name that imports it
        json_lines: print a line of JSON per run instead of the table
    """
    console = terminal()
    used_device = torch_device(device)
    check_data_dir(data_dir)
    rows: list[tuple[Record, Record]] = []
    own = find_study(study) if study else None
    for run in _load_runs(runs, data_dir, own):
        with seeded_environment(run.config, used_device), _bar(run):
            found = run.study.evaluate(run.network.to(used_device), run.data)
        rows.append((run.summary, found))
        if json_lines:
            record = {"study": run.config.study, "run": run.config.run, **found}
            print(json.dumps(finite(record), allow_nan=False), flush=True)
    if not json_lines:
        console.print(_table(rows))


@contextlib.contextmanager
def _bar(run: LoadedRun) -> Iterator[None]:
    """Show how many of the test batches the run's network has seen."""
    with counting(f"batches of {run.folder.name}", len(run.study.test_batches(run.data))) as advance:
        hook = run.network.register_forward_hook(lambda *_: advance())
        try:
            yield
        finally:
            hook.remove()


def _load_runs(folders: tuple[Path, ...], data_dir: Path | None, own: Study | None) -> Iterator[LoadedRun]:
    """Yield the complete runs in `folders`. Leave out damaged runs of a study, and print why."""
    if not folders:
        raise UserError("runs needs at least one folder, of a run or of a study")
    for folder in folders:
        if not is_file(folder / STUDY):
            yield load_run(folder, data_dir, own)
            continue
        found = StudyFolder(folder, read_study(folder))
        complete, left_out = sorted(found.complete()), list(found.left_out.values())
        count = 0
        for name in complete:
            try:
                run = load_run(folder / name, data_dir, own)
            except FolderError as error:
                left_out.append(str(error))
                continue
            count += 1
            yield run
        print_left_out(left_out)
        if not count:
            raise UserError(f"{folder} holds no complete run")


def _table(rows: list[tuple[Record, Record]]) -> Table:
    """Return a table with a row per run: its scores now, and the largest relative difference from the record."""
    scores = [name for name in columns_of(summary for summary, _ in rows) if any(name in found for _, found in rows)]
    shown = []
    for summary, found in rows:
        known = [name for name in scores if found.get(name) is not None and summary.get(name) is not None]
        differences = [abs(found[name] - summary[name]) / max(abs(summary[name]), 1e-12) for name in known]
        values = ["-" if found.get(name) is None else f"{found[name]:.4f}" for name in scores]
        shown.append([summary["run"], *values, _largest(differences)])
    caption = "Scores on the test data, and the largest relative difference from the run's summary.json."
    return rich_table(["run", *(name.replace("_", " ") for name in scores), "difference"], shown, caption=caption)


def _largest(differences: list[float]) -> str:
    if not differences or any(map(math.isnan, differences)):
        return "not known"
    return f"{max(differences):.0e}" if max(differences) else "none"
