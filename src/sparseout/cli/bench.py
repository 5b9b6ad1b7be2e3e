"""The command `sparseout bench`: each measurement is written as soon as it is complete."""

from __future__ import annotations

import csv
import dataclasses
import functools
import io
import itertools
import shlex
import statistics
from collections.abc import Callable, Iterable, Sequence
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
from sparseout.bench.whole_runs import differences, merge
from sparseout.checks import check_choice, check_integer, check_number, check_q
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


# The columns of each part's file, the function that formats its rows as a table, and the prefix of the ratio in its rows.
PARTS = {
    "op": (op.COLUMNS, op_table, "ratio"),
    "steps": (steps.COLUMNS, step_table, "none"),
    "target": (target.COLUMNS, target_table, "none"),
    "probe": (probes.COLUMNS, probe_table, "none"),
    "methods": (methods.COLUMNS, method_table, "ratio"),
    "glm": (glm.COLUMNS, fit_table, "ratio"),
    "inference": (inference.COLUMNS, inference_table, "speed"),
}
MAX_RUNS = 100


@dataclasses.dataclass(frozen=True)
class Selection:
    """The measurements to take.

    Attributes:
        sizes: numbers of elements of the op's input; none skips the op
        dtypes: dtypes of the op's input. Of the default sizes, the largest is measured in float32 alone
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
        runs: number of whole runs of all of it, one after another; each number is their median, and the files have the lowest
            and the highest of them
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
    runs: Annotated[int, tyro.conf.arg(metavar="INT")] = 1

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
            check_integer("runs", self.runs, 1, MAX_RUNS)
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
    folder, plan = _Folder(out, selection, chosen_device), _plan(selection, chosen_device)
    with torch.random.fork_rng([chosen_device] if chosen_device.type == "cuda" else []), progress_bar(console) as progress:
        torch.manual_seed(0)
        task = progress.add_task("", total=selection.runs * len(plan))
        for _ in range(selection.runs):
            folder.start_run()
            for part, description, measure in plan:
                progress.update(task, description=description)
                folder.add(part, measure())
                progress.advance(task)
    write_figure(folder.rows["op"], folder.rows["steps"], out / "bench.png")
    figures = [out / "bench.png"]
    if any(row["case"] in methods.STEPS for row in folder.rows["methods"]):
        figures.append(out / "methods.png")
        write_methods_figure(folder.rows["methods"], figures[-1])
    if folder.rows["inference"]:
        figures.append(out / "inference.png")
        write_inference_figure(folder.rows["inference"], figures[-1])
    for part, (_, table, ratio) in PARTS.items():
        if rows := folder.rows[part]:
            console.print(table(rows))
            if found := differences(rows, ratio) if selection.runs > 1 else []:
                console.print(_noise(part, found, selection.runs), soft_wrap=True)
    for note in dict.fromkeys(row["note"] for row in folder.rows["op"] if row["note"]):
        console.print(note, soft_wrap=True)
    files = ", ".join(str(out / f"{part}.csv") for part, rows in folder.rows.items() if rows)
    console.print(f"Numbers: {files}\nFigures: {', '.join(map(str, figures))}", soft_wrap=True)


def _plan(selection: Selection, device: torch.device) -> list[tuple[str, str, Callable[[], list[op.Row]]]]:
    """Return the measurements of one run in their order: the part, a description, and the function that takes it."""
    seconds, watching = selection.seconds, tuple(dict.fromkeys(selection.probes))
    plan: list[tuple[str, str, Callable[[], list[op.Row]]]] = []
    for dtype, elements in op.cases(selection.dtypes, selection.sizes):
        measure = functools.partial(op.measure, dtype, elements, selection.q, device, seconds)
        plan.append(("op", f"{dtype}, {size(elements)} elements", measure))
    for model in dict.fromkeys(selection.models):
        plan.append(("steps", f"steps of {model}", functools.partial(steps.measure, model, device, seconds)))
    for model in dict.fromkeys(selection.targets):
        plan.append(("target", f"steps of {model} with a target", functools.partial(target.measure, model, device, seconds)))
    for mode in probes.MODES if watching else ():
        measure = functools.partial(probes.measure, mode, watching, device, seconds)
        plan.append(("probe", f"probes of a transformer, {mode}", measure))
    for case in dict.fromkeys(selection.methods):
        plan.append(("methods", f"methods, {case}", functools.partial(methods.measure, case, device, seconds)))
    for samples in selection.samples:
        plan.append(("glm", f"fits to {samples:,} samples", functools.partial(glm.measure, samples, seconds)))
    for width, layer in itertools.product(sorted(set(selection.inference)), inference.CASES):
        description = f"a layer of {width} x {width}, batch {layer.batch}, {layer.zeros:.0%} zeros"
        plan.append(("inference", description, functools.partial(inference.measure, width, layer, seconds)))
    return plan


def _noise(part: str, found: Sequence[float], runs: int) -> str:
    """Say how far the ratios of a part differ between whole runs."""
    typical, largest = (f"{100 * value:.1f} %" for value in (statistics.median(found), max(found)))
    return f"{part}: from the lowest to the highest of {runs} runs, ratios rise by {typical} in the median, at most by {largest}."


class _Folder:
    """The output folder: files of an earlier benchmark are replaced, and each part is rewritten with every new measurement.

    Attributes:
        rows: the rows of each part, merged over the runs.
    """

    def __init__(self, path: Path, selection: Selection, device: torch.device) -> None:
        self.path = path
        self.rows: dict[str, list[op.Row]] = {part: [] for part in PARTS}
        self._runs: dict[str, list[list[op.Row]]] = {part: [] for part in PARTS}
        try:
            path.mkdir(parents=True, exist_ok=True)
            for figure in ("bench.png", "methods.png", "inference.png"):
                (path / figure).unlink(missing_ok=True)
            write_atomic(path / "provenance.json", (to_json(_provenance(selection, device)) + "\n").encode())
            for part in PARTS:
                self._write(part)
        except OSError as error:
            raise UserError(f"--out must be a folder that can be written: {path}: {error.strerror}") from error

    def start_run(self) -> None:
        """Start a whole run of the benchmark."""
        for runs in self._runs.values():
            runs.append([])

    def add(self, part: str, rows: Sequence[op.Row]) -> None:
        """Add rows of the run to the file of a part."""
        self._runs[part][-1] += rows
        self.rows[part] = merge(self._runs[part])
        self._write(part)

    def _write(self, part: str) -> None:
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
