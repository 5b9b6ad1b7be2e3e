"""Tables of a benchmark for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from sparseout.bench.figure import label, op_lines, size
from sparseout.bench.op import Row
from sparseout.bench.steps import CONTENDERS


def op_table(rows: Sequence[Row]) -> Table:
    """Return the nanoseconds per element and, in brackets, the ratio to `F.dropout`, with a column for each size."""
    dtype, lines = op_lines(rows)
    sizes = sorted({row["elements"] for line in lines.values() for row in line})
    table = _table(f"Forward and backward, {dtype}: nanoseconds per element, and the ratio to F.dropout.")
    table.add_column("elements", no_wrap=True)
    for elements in sizes:
        table.add_column(size(elements), justify="right")
    for (name, q), line in lines.items():
        cells = {row["elements"]: f"{row['ns_per_element']:.3g} ({row['ratio_to_dropout']:.3f})" for row in line}
        table.add_row(label(name, q), *(cells.get(elements, "") for elements in sizes))
    return table


def step_table(rows: Sequence[Row]) -> Table:
    """Return the milliseconds per training step, the ratio to no noise and the peak of the memory, with a row for each model."""
    table = _table("A training step: milliseconds, the ratio to no noise, and the peak of the memory that the step takes.")
    table.add_column("model")
    for contender in CONTENDERS:
        table.add_column(label(contender.noise, contender.q).replace(", ", "\n"), justify="right")
    for model in dict.fromkeys(row["model"] for row in rows):
        steps = [row for row in rows if row["model"] == model]
        cells = (f"{row['milliseconds']:.3g} ({row['ratio_to_none']:.3f})\n{row['peak_mib']:.1f} MiB" for row in steps)
        table.add_row(model, *cells)
    return table


def target_table(rows: Sequence[Row]) -> Table:
    """Return the milliseconds per training step with and without a sparsity target and their ratio, by model."""
    table = _table("A training step with a sparsity target: milliseconds, and the ratio to none.")
    for name in ("model", "none", "target", "ratio"):
        table.add_column(name, justify="left" if name == "model" else "right")
    for model in dict.fromkeys(row["model"] for row in rows):
        none, target = ({row["target"]: row for row in rows if row["model"] == model}[name] for name in ("none", "target"))
        table.add_row(model, f"{none['milliseconds']:.3g}", f"{target['milliseconds']:.3g}", f"{target['ratio_to_none']:.3f}")
    return table


def probe_table(rows: Sequence[Row]) -> Table:
    """Return the milliseconds per forward pass and, in brackets, the ratio to no probe, with a row for each mode."""
    names = list(dict.fromkeys(row["probe"] for row in rows))
    table = _table("A transformer's forward pass with a probe: milliseconds, and the ratio to none.")
    table.add_column("mode")
    for name in names:
        table.add_column(name, justify="right")
    for mode in dict.fromkeys(row["mode"] for row in rows):
        passes = {row["probe"]: f"{row['milliseconds']:.3g} ({row['ratio_to_none']:.3f})" for row in rows if row["mode"] == mode}
        table.add_row(mode, *(passes[name] for name in names))
    return table


def method_table(rows: Sequence[Row]) -> Table:
    """Return the milliseconds, those added to the first method of the case, and the ratio to it, with a row for each method."""
    table = _table("Steps and selections: milliseconds, milliseconds added to the first method of the case, and ratio.")
    for name in ("case", "method", "time", "added", "ratio"):
        table.add_column(name, justify="left" if name in ("case", "method") else "right", no_wrap=True)
    for row in rows:
        measured = (f"{row['milliseconds']:.3g}", f"{row['added_ms']:.3g}", f"{row['ratio_to_first']:.3f}")
        table.add_row(row["case"], label(row["method"], row["q"]), *measured)
    return table


def fit_table(rows: Sequence[Row]) -> Table:
    """Return the seconds per fit and the ratio to scikit-learn's, with a row for each estimator."""
    table = _table("A fit of a generalized linear model: seconds, and the ratio to scikit-learn's.")
    for name in ("samples", "estimator", "iterations", "seconds", "ratio"):
        table.add_column(name, justify="left" if name == "estimator" else "right")
    for row in rows:
        measured = (str(row["iterations"]), f"{row['seconds']:.3g}", f"{row['ratio_to_sklearn']:.3f}")
        table.add_row(f"{row['samples']:,}", label(row["estimator"], row["q"]), *measured)
    return table


def inference_table(rows: Sequence[Row]) -> Table:
    """Return how many times faster than the best of torch each contender is, with a row for each input."""
    names = list(dict.fromkeys(row["contender"] for row in rows))
    table = _table("A linear layer with cold weights: the speed relative to the faster of F.linear in float32 and in bfloat16.")
    for name in ("width", "batch", "zeros", *(name.replace(", ", "\n") for name in names)):
        table.add_column(name, justify="right")
    speeds: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        zeros = f"{row['zeros']:.0%}" + (" overlapping" if row["overlap"] else "")
        speeds.setdefault((str(row["width"]), str(row["batch"]), zeros), {})[row["contender"]] = f"{row['speed']:.2f}"
    for case, found in speeds.items():
        table.add_row(*case, *(found[name] for name in names))
    return table


def _table(caption: str) -> Table:
    return Table(box=box.SIMPLE_HEAD, caption=caption, caption_justify="left", collapse_padding=True)
