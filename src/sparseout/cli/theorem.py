"""The command `sparseout theorem`: four experiments on the theorem, each with a file of rows and a figure."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import torch
import tyro
from rich.console import Console
from rich.table import Table

from sparseout.errors import UserError
from sparseout.records.files import check_writable, write_atomic
from sparseout.records.json_lines import lines, to_json
from sparseout.records.provenance import provenance
from sparseout.records.schema import Provenance, Record, read
from sparseout.runs.progress import progress_bar, terminal
from sparseout.training.folders import read_file

EXPERIMENTS = ("convergence", "approximation", "shrinkage", "prediction")


def theorem(
    experiments: Annotated[tuple[str, ...], tyro.conf.arg(metavar=f"{'|'.join(EXPERIMENTS)} ...")] = EXPERIMENTS,
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/glm"),
) -> None:
    """Compare the theorem of generalized linear models with data: convergence, accuracy, shrinkage and prediction.

    The same command resumes an interrupted one. docs/theory.md describes the results.

    Args:
        experiments: experiments to run
        out: folder for each experiment's rows (.jsonl) and figure (.png), and for provenance.json
    """
    for name in experiments:
        if name not in EXPERIMENTS:
            raise UserError(f"experiments must be some of {', '.join(map(repr, EXPERIMENTS))}, got {name!r}")
    if not experiments:
        raise UserError("experiments needs at least one name")
    console = terminal()
    try:
        out.mkdir(parents=True, exist_ok=True)
        check_writable({f"--out ({name})": out / name for name in _files(experiments)})
    except OSError as error:
        raise UserError(f"--out must be a folder that can be written: {out}: {error.strerror}") from error
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # another order of summation rounds differently
    try:
        for name in dict.fromkeys(experiments):
            experiment = importlib.import_module(f"sparseout.studies.glm.{name}")
            _run(name, experiment, out, console)
    finally:
        torch.set_num_threads(threads)


def _files(experiments: Sequence[str]) -> list[str]:
    """Return the names of the files that the experiments write."""
    return ["provenance.json", *(f"{name}.{kind}" for name in dict.fromkeys(experiments) for kind in ("jsonl", "png"))]


def _run(name: str, experiment: Any, out: Path, console: Console) -> None:
    """Run the parts that are missing from the experiment's file, then draw the figure."""
    path, sources_path, parts = out / f"{name}.jsonl", out / "provenance.json", experiment.parts()
    rows = _read(path, experiment.Row, parts)
    sources = read_file(sources_path, dict[str, Provenance]) if sources_path.exists() else {}
    done = {row["part"] for row in rows}
    with progress_bar(console) as progress:
        task = progress.add_task(name, total=len(parts), completed=len(done))
        for part, measure in parts.items():
            if part in done:
                continue
            rows += [{"part": part, **row} for row in measure()]
            write_atomic(path, "".join(to_json(row) + "\n" for row in rows).encode())
            sources[name] = provenance(f"sparseout theorem --experiments {name}", torch.device("cpu"))
            write_atomic(sources_path, (to_json(sources) + "\n").encode())
            progress.advance(task)
    console.print(_draw(experiment, rows, path))
    console.print(f"Rows: {path}\nFigure: {out / f'{name}.png'}", soft_wrap=True)


def _read(path: Path, kind: type, parts: Mapping[str, Any]) -> list[Record]:
    """Read the rows of an experiment's file, if it exists.

    Args:
        path: the file.
        kind: schema of a row.
        parts: parts of the experiment, by name.

    Raises:
        UserError: a line is not a row of one of the parts.
    """
    if not path.exists():
        return []
    rows = []
    try:
        for name, line in lines(path):
            rows.append(read(line, kind, name))
            if rows[-1]["part"] not in parts:
                raise UserError(f"{name}: part: must be one of {', '.join(map(repr, parts))}, got {rows[-1]['part']!r}")
    except UserError as error:
        raise UserError(f"{error}: delete the file to repeat the experiment") from error
    return rows


def _draw(experiment: Any, rows: list[Record], path: Path) -> Table:
    """Write the experiment's figure beside its rows in `path`, and return its table."""
    from sparseout.studies.glm.figures import write_figure

    try:
        write_figure(experiment.draw, rows, path.with_suffix(".png"))
        return cast(Table, experiment.summary(rows))
    except (ArithmeticError, LookupError, StopIteration, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{path} must have the rows of {path.stem} ({reason}): delete it to repeat the experiment") from error
