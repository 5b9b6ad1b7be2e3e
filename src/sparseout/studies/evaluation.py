"""The command `sparseout evaluate`: trained runs judged again on their study's test data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table

from sparseout.probe.tables import rich_table
from sparseout.report.files import finite
from sparseout.report.table import COLUMNS
from sparseout.studies.config import UserError
from sparseout.studies.place import torch_device
from sparseout.studies.progress import terminal
from sparseout.studies.records import Record
from sparseout.studies.run import isolated
from sparseout.studies.trained import trained


def evaluate(
    runs: tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="DIR ...")]],
    data_dir: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None,
    device: Annotated[str, tyro.conf.arg(metavar="NAME")] = "auto",
    json_lines: Annotated[bool, tyro.conf.arg(name="json")] = False,
) -> None:
    """Evaluate trained runs on their study's test data, beside what was recorded when they were trained.

    Args:
        runs: folders of complete runs, or of studies, of which all complete runs are taken
        data_dir: folder with the data set's files, as the study's --data-dir
        device: 'cpu', 'cuda' or any other that torch knows; 'auto' is the accelerator if there is one
        json_lines: print a line of JSON for each run in place of the table
    """
    console = terminal()
    where = torch_device(device)
    rows: list[tuple[Record, Record]] = []
    for folder in _complete(runs):
        run = trained(folder, data_dir)
        with isolated(run.config, where):
            found = run.study.evaluate(run.network.to(where), run.data)
        rows.append((run.summary, found))
        if json_lines:
            record = {"study": run.config.study, "run": run.config.run, **found}
            print(json.dumps(finite(record), allow_nan=False), flush=True)
    if not json_lines:
        console.print(_table(rows))


def _complete(folders: tuple[Path, ...]) -> list[Path]:
    """The complete runs that `folders` are or hold."""
    runs: list[Path] = []
    for folder in folders:
        if (folder / "study.json").is_file():
            found = sorted(path.parent for path in folder.glob("*/summary.json"))
            if not found:
                raise UserError(f"{folder} holds no complete run")
            runs += found
        else:
            runs.append(folder)
    if not runs:
        raise UserError("runs needs at least one folder, of a run or of a study")
    return runs


def _table(rows: list[tuple[Record, Record]]) -> Table:
    """A row a run: each score now, and by how much one differs at most from the record."""
    scores = [name for name in COLUMNS if any(name in found for _, found in rows)]
    shown = []
    for summary, found in rows:
        known = [name for name in scores if found.get(name) is not None and summary.get(name) is not None]
        difference = max((abs(found[name] - summary[name]) / max(abs(summary[name]), 1e-12) for name in known), default=0.0)
        values = ["-" if found.get(name) is None else f"{found[name]:.4f}" for name in scores]
        shown.append([summary["run"], *values, f"{difference:.0e}" if difference else "none"])
    caption = "On the test data; the difference is the largest, relative to the run's summary.json."
    return rich_table(["run", *(name.replace("_", " ") for name in scores), "difference"], shown, caption=caption)
