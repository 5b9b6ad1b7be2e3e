"""The command `sparseout study glm`: four experiments on the theorem, each a file of rows and a figure."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from rich.console import Console

from sparseout.report.files import write_whole
from sparseout.studies.config import UserError
from sparseout.studies.progress import progress_bar, terminal
from sparseout.studies.records import Record, provenance, to_json

EXPERIMENTS = ("convergence", "approximation", "shrinkage", "prediction")


def glm(
    experiments: Annotated[tuple[str, ...], tyro.conf.arg(metavar=f"{'|'.join(EXPERIMENTS)} ...")] = EXPERIMENTS,
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/glm"),
) -> None:
    """Hold the theorem of generalized linear models against data: where training ends, how good it is, and what it is good for.

    Killed at any moment, it goes on where it stopped when the same command is given again. docs/theory.md says what was found.

    Args:
        experiments: which to run
        out: folder for each experiment's rows (.jsonl) and figure (.png), and provenance.json
    """
    for name in experiments:
        if name not in EXPERIMENTS:
            raise UserError(f"experiments must be some of {', '.join(map(repr, EXPERIMENTS))}, got {name!r}")
    console = terminal()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out must be a folder that can be written: {out}: {error.strerror}") from error
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in another order round differently
    try:
        for name in dict.fromkeys(experiments):
            experiment = importlib.import_module(f"sparseout.studies.glm.{name}")
            _run(name, experiment, out, console)
    finally:
        torch.set_num_threads(threads)


def _run(name: str, experiment: Any, out: Path, console: Console) -> None:
    """Run the parts that are not in the experiment's file yet, and draw what it holds."""
    from sparseout.studies.glm.figures import write_figure

    path = out / f"{name}.jsonl"
    rows = _read(path)
    sources = next(iter(_read(out / "provenance.json")), {})
    parts = experiment.parts()
    done = {row["part"] for row in rows}
    with progress_bar(console) as progress:
        task = progress.add_task(name, total=len(parts), completed=len(done))
        for part, measure in parts.items():
            if part in done:
                continue
            rows += [{"part": part, **row} for row in measure()]
            write_whole(path, "".join(to_json(row) + "\n" for row in rows).encode())
            sources[name] = provenance(f"sparseout study glm --experiments {name}", torch.device("cpu"))
            write_whole(out / "provenance.json", (to_json(sources) + "\n").encode())
            progress.advance(task)
    write_figure(experiment.draw, rows, out / f"{name}.png")
    console.print(experiment.summary(rows))
    console.print(f"Rows: {path}\nFigure: {out / f'{name}.png'}", soft_wrap=True)


def _read(path: Path) -> list[Record]:
    if not path.exists():
        return []
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except ValueError as error:
        raise UserError(f"{path} cannot be read as JSON lines ({error}): delete it to run that again") from error
