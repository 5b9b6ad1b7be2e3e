"""`sparseout probe TARGET`: run a model on data, and print how sparse its activations are."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from sparseout import report
from sparseout.cli.probe.load import load
from sparseout.cli.probe.probed_model import ProbedModel
from sparseout.errors import UserError
from sparseout.probe import Comparison, Probe, Summary
from sparseout.records.files import check_writable, write_atomic
from sparseout.runs.options import torch_device
from sparseout.runs.progress import terminal

SAMPLES = 3  # for each unit, those that excite it most
MAX_COUNT = 2**31 - 1  # of batches, and of samples per batch


def probe(
    target: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TARGET")],
    data: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="PATH ...")] = (),
    batches: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None,
    batch_size: int = 32,
    layers: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = (),
    measures: Literal["basic", "all"] = "all",
    every: int = 1,
    before: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None,
    html: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None,
    json: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None,
    device: Annotated[str, tyro.conf.arg(metavar="NAME")] = "auto",
    study: Annotated[str | None, tyro.conf.arg(metavar="MODULE:OBJECT")] = None,
) -> None:
    """Measure how sparse a model's activations are on real input.

    Args:
        target: hf:NAME_OR_FOLDER (a transformers model in the hub's cache or in a folder), package.module:factory (a function in
            your module that returns a model, or a model and its batches), or run:FOLDER (a model trained by a study)
        data: input files, or folders of them: text with one sample per line, or images; a .npy file for a factory; the folder
            of the data set for a run
        batches: maximum number of batches; default: all
        batch_size: samples per batch
        layers: names or patterns such as 'encoder.*.act'; default: activation functions, dropouts and recurrent layers
        measures: 'basic' is the fraction of zeros, Hoyer sparseness and RMS
        every: measure every N-th batch, starting with the first
        before: an earlier summary, written by --json, to compare with
        html: write a report to this file, which needs no network
        json: write the summary to this file
        device: 'cpu', 'cuda' or another torch device; 'auto' is the accelerator if there is one
        study: for run:FOLDER of a study of your own, the name that imports it
    """
    for name, value in (("batches", batches), ("batch-size", batch_size), ("every", every)):
        if value is not None and value < 1:
            raise UserError(f"--{name} must be at least 1, got {value}")
        if value is not None and value > MAX_COUNT:
            raise UserError(f"--{name} must be at most {MAX_COUNT}, got {value}")
    earlier = _read(before) if before else None
    check_writable({"--html": html, "--json": json})
    console = terminal()
    where = torch_device(device)
    found = load(target, data, batch_size, study)
    found.model.to(where)
    try:
        remembered = SAMPLES if measures == "all" else 0
        model_probe = Probe(found.model, layers or None, measures=measures, every=every, samples=remembered)
    except ValueError as error:
        raise UserError(str(error)) from error
    console.print(repr(model_probe), soft_wrap=True)
    _run(found, model_probe, batches, where, console)
    summary = model_probe.summary()
    shown: Summary | Comparison = earlier.compare(summary) if earlier else summary
    console.print(shown.table())
    for remark in found.remarks:
        console.print(remark, soft_wrap=True)
    if json:
        write_atomic(json, summary.to_json().encode())
    if html:
        report.write_probe(shown, html, title=found.name or None, history=found.history, show=found.show)
        console.print(f"Report: {html}", soft_wrap=True)


def _run(target: ProbedModel, probe: Probe, batches: int | None, device: torch.device, console: Console) -> None:
    """Run the model on its batches, with a progress bar.

    Raises:
        UserError: there is no batch, or the model cannot run on one.
    """
    total = target.count if batches is None else min(batches, target.count or batches)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    ran = False
    with probe, torch.inference_mode(), Progress(*columns, console=console, transient=True) as progress:
        for batch in progress.track(itertools.islice(target.batches, batches), total=total, description="batches"):
            target.run(batch, device)
            ran = True
    if not ran:
        raise UserError("TARGET provides no batches to run the model on")


def _read(path: Path) -> Summary:
    try:
        return Summary.read(path)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"--before must be a summary written by --json: {error}") from error
