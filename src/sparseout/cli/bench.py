"""The command `sparseout bench`: each measurement is written as soon as it is complete."""

from __future__ import annotations

import csv
import dataclasses
import io
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import torch
import tyro

from sparseout.bench import glm, inference, methods, op, probes, steps, target
from sparseout.bench.figure import size, write_figure, write_inference_figure
from sparseout.bench.methods_figure import write_methods_figure
from sparseout.bench.models import MODELS
from sparseout.bench.table import fit_table, inference_table, method_table, op_table, probe_table, step_table, target_table
from sparseout.bench.timing import load
from sparseout.checks import check_choice, check_number, check_q
from sparseout.errors import UserError
from sparseout.native.library import AVAILABLE
from sparseout.op import cpu
from sparseout.records.files import write_atomic
from sparseout.records.json_lines import to_json
from sparseout.records.provenance import provenance
from sparseout.records.schema import Record
from sparseout.runs.options import torch_device
from sparseout.runs.progress import progress_bar, terminal

Integers = Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT ...")]
Floats = Annotated[tuple[float, ...], tyro.conf.arg(metavar="FLOAT ...")]
Dtypes = Annotated[tuple[str, ...], tyro.conf.arg(metavar=f"{'|'.join(op.DTYPES)} ...")]
Models = Annotated[tuple[str, ...], tyro.conf.arg(metavar=f"{'|'.join(MODELS)} ...")]
Probes = Annotated[tuple[str, ...], tyro.conf.arg(metavar=f"{'|'.join(probes.PROBES)} ...")]
Methods = Annotated[tuple[str, ...], tyro.conf.arg(metavar=f"{'|'.join(methods.CASES)} ...")]


# The columns of each part's file, and the function that formats its rows as a table.
PARTS = {
    "op": (op.COLUMNS, op_table),
    "steps": (steps.COLUMNS, step_table),
    "target": (target.COLUMNS, target_table),
    "probe": (probes.COLUMNS, probe_table),
    "methods": (methods.COLUMNS, method_table),
    "glm": (glm.COLUMNS, fit_table),
    "inference": (inference.COLUMNS, inference_table),
}


@dataclasses.dataclass(frozen=True)
class Selection:
    """The measurements to take.

    Attributes:
        sizes: numbers of elements of the op's input; none skips the op
        dtypes: dtypes of the op's input
        q: values of q for Sparseout and the plain expressions. To take ten minutes in all, the default values run partly:
            Sparseout with all of them in float32 and with 1.7 and 2 in other dtypes, the plain expressions with all of them in
            float32 up to 1 Mi elements and with 1.7 elsewhere. Other values run everywhere
        models: models whose training steps to time; none skips the steps
        targets: models whose training steps to time with and without a sparsity target; none skips them
        probes: probes whose cost in a transformer's forward pass to time; none skips them
        methods: comparisons of Sparseout with the layers of sparseout.regularizers: training steps of an autoencoder with each
            layer, of a linear layer with noise, and k-winners with torch.topk; none skips them
        samples: numbers of samples, with 200 features, for fits of generalized linear models; none skips the fits
        seconds: time for each dtype and size, model, mode of the transformer, comparison, fit, and input of a layer; at least
            three rounds are taken
    """

    sizes: Integers = op.SIZES
    dtypes: Dtypes = tuple(op.DTYPES)
    q: Floats = op.QS
    models: Models = tuple(MODELS)
    targets: Models = tuple(MODELS)
    probes: Probes = tuple(probes.PROBES)
    methods: Methods = methods.CASES
    samples: Integers = (100_000,)
    inference: Integers = inference.WIDTHS
    seconds: float = 8.0

    def check(self) -> None:
        """Raise `UserError` unless every value is in its range."""
        try:
            for elements in self.sizes:
                check_number("sizes", elements, 1, 2**40, "integers in [1, 2^40]")
            for samples in self.samples:
                check_number("samples", samples, 100, 2**40, "integers in [100, 2^40]")
            for width in self.inference:
                check_number("inference", width, 16, 2**15, "integers in [16, 2^15]")
            choices: dict[str, Iterable[str]] = {"dtypes": op.DTYPES, "models": MODELS, "targets": MODELS}
            choices |= {"probes": probes.PROBES, "methods": methods.CASES}
            for name, allowed in choices.items():
                for value in getattr(self, name):
                    check_choice(name, value, list(allowed))
            for q in self.q:
                check_q(q)
            check_number("seconds", self.seconds, 0, 86_400, "a number in [0, 86400], which is a day")
        except (TypeError, ValueError) as error:
            raise UserError(str(error)) from error
        if not self.q:
            raise UserError("q needs at least one value")
        parts = (self.models, self.targets, self.probes, self.methods, self.samples, self.inference)
        if not (self.sizes and self.dtypes) and not any(parts):
            names = "--sizes and --dtypes, --models, --targets, --probes, --methods, --samples or --inference"
            raise UserError(f"nothing to measure: give {names}")

    @property
    def command(self) -> str:
        """The command that repeats the measurements, without its output folder and device."""
        words = []
        for name, value in dataclasses.asdict(self).items():
            words += [f"--{name}", *map(str, value if isinstance(value, tuple) else (value,))]
        return shlex.join(["sparseout", "bench", *words])


def bench(
    selection: Annotated[Selection, tyro.conf.arg(name="")],
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/bench"),
    device: Annotated[str, tyro.conf.arg(metavar="NAME")] = "auto",
) -> None:
    """Time the op, training steps, targets, probes, other methods, fits and layers that skip zeros, each beside its alternative.

    The contenders take turns in one process, with p = 0.5. The files hold medians and quartiles; docs/bench.md explains them.

    Args:
        selection: the measurements to take
        out: folder for op.csv, steps.csv, target.csv, probe.csv, methods.csv, glm.csv, inference.csv, provenance.json,
            bench.png, methods.png and inference.png, which are replaced
        device: 'cpu', 'cuda', or 'auto', which is the accelerator if there is one
    """
    selection.check()
    if device.partition(":")[0] == "meta":
        raise UserError("device must be cpu or cuda, got meta, which computes nothing")
    chosen_device = torch_device(device)
    if chosen_device.type not in ("cpu", "cuda"):
        raise UserError(f"device must be cpu or cuda, got {chosen_device.type}, which has no clock here")
    console = terminal()
    folder = _Folder(out, selection, chosen_device)
    models, targets = list(dict.fromkeys(selection.models)), list(dict.fromkeys(selection.targets))
    watching = tuple(dict.fromkeys(selection.probes))
    modes = probes.MODES if watching else ()
    compared = list(dict.fromkeys(selection.methods))
    layers = [(width, case) for width in sorted(set(selection.inference)) for case in inference.CASES]
    cases = [(dtype, elements) for dtype in dict.fromkeys(selection.dtypes) for elements in sorted(set(selection.sizes))]
    with torch.random.fork_rng([chosen_device] if chosen_device.type == "cuda" else []), progress_bar(console) as progress:
        torch.manual_seed(0)
        parts = (cases, models, targets, modes, compared, selection.samples, layers)
        task = progress.add_task("", total=sum(map(len, parts)))
        for dtype, elements in cases:
            progress.update(task, description=f"{dtype}, {size(elements)} elements")
            folder.add("op", op.measure(dtype, elements, selection.q, chosen_device, selection.seconds))
            progress.advance(task)
        for model in models:
            progress.update(task, description=f"steps of {model}")
            folder.add("steps", steps.measure(model, chosen_device, selection.seconds))
            progress.advance(task)
        for model in targets:
            progress.update(task, description=f"steps of {model} with a target")
            folder.add("target", target.measure(model, chosen_device, selection.seconds))
            progress.advance(task)
        for mode in modes:
            progress.update(task, description=f"probes of a transformer, {mode}")
            folder.add("probe", probes.measure(mode, watching, chosen_device, selection.seconds))
            progress.advance(task)
        for comparison in compared:
            progress.update(task, description=f"methods, {comparison}")
            folder.add("methods", methods.measure(comparison, chosen_device, selection.seconds))
            progress.advance(task)
        for samples in selection.samples:
            progress.update(task, description=f"fits to {samples:,} samples")
            folder.add("glm", glm.measure(samples, selection.seconds))
            progress.advance(task)
        for width, case in layers:
            progress.update(task, description=f"a layer of {width} x {width}, batch {case.batch}, {case.zeros:.0%} zeros")
            folder.add("inference", inference.measure(width, case, selection.seconds))
            progress.advance(task)
    write_figure(folder.rows["op"], folder.rows["steps"], out / "bench.png")
    figures = [out / "bench.png"]
    if any(row["case"] in methods.STEPS for row in folder.rows["methods"]):
        figures.append(out / "methods.png")
        write_methods_figure(folder.rows["methods"], figures[-1])
    if layers:
        figures.append(out / "inference.png")
        write_inference_figure(folder.rows["inference"], figures[-1])
    for part, (_, table) in PARTS.items():
        if rows := folder.rows[part]:
            console.print(table(rows))
    for note in dict.fromkeys(row["note"] for row in folder.rows["op"] if row["note"]):
        console.print(note, soft_wrap=True)
    files = ", ".join(str(out / f"{part}.csv") for part, rows in folder.rows.items() if rows)
    console.print(f"Numbers: {files}\nFigures: {', '.join(map(str, figures))}", soft_wrap=True)


class _Folder:
    """The output folder: files of an earlier benchmark are replaced, and each part is rewritten with every new measurement."""

    def __init__(self, path: Path, selection: Selection, device: torch.device) -> None:
        self.path = path
        self.rows: dict[str, list[op.Row]] = {part: [] for part in PARTS}
        try:
            path.mkdir(parents=True, exist_ok=True)
            for figure in ("bench.png", "methods.png", "inference.png"):
                (path / figure).unlink(missing_ok=True)
            write_atomic(path / "provenance.json", (to_json(_provenance(selection, device)) + "\n").encode())
            for part in PARTS:
                self.add(part, [])
        except OSError as error:
            raise UserError(f"--out must be a folder that can be written: {path}: {error.strerror}") from error

    def add(self, part: str, rows: Sequence[op.Row]) -> None:
        """Add rows to the file of a part."""
        self.rows[part] += rows
        write_atomic(self.path / f"{part}.csv", _csv(PARTS[part][0], self.rows[part]))


def _csv(columns: Sequence[str], rows: Sequence[op.Row]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()} for row in rows)
    return text.getvalue().encode()


def _provenance(selection: Selection, device: torch.device) -> Record:
    """Return the provenance, with everything else that a time depends on."""
    return {
        **provenance(selection.command, device),
        "threads": torch.get_num_threads(),
        "instruction_set": AVAILABLE[cpu.used] if AVAILABLE else "none",
        "load_before": load(),
    }
