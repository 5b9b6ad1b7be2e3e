"""The figure of a benchmark: the time of the op over its size, and the cost of noise in a training step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparseout.bench import op
from sparseout.bench.op import Row
from sparseout.bench.steps import CONSTANT
from sparseout.report.figure import COLOURS, GREY, save

# Markers and dashes distinguish the lines without colour too. The claim is about three lines; the others are faint.
_FAINT = {"linewidth": 1, "alpha": 0.45, "markersize": 4}
_STYLES: dict[str, dict[str, Any]] = {
    "F.dropout": {"color": "black", "marker": "o", "linewidth": 2.5},
    "dropout": {"color": "black", "marker": "o"},
    CONSTANT: {"color": GREY, "marker": "|"},
    "authors": {"color": COLOURS[1], "marker": "s", "linestyle": "--", **_FAINT},
    "expression": {"color": COLOURS[4], "marker": "^", "linestyle": "--", **_FAINT},
    "compiled": {"color": COLOURS[3], "marker": "v", "linestyle": "--", **_FAINT},
    "relu": {"color": GREY, "linestyle": ":", "linewidth": 2.5},
    "copy_": {"color": GREY, "linestyle": "-.", **_FAINT},
}
_SHOWN_Q = 1.5  # the line of Sparseout that is not faint is that of the nearest q
_TITLES = {
    "authors": "authors' code",
    "compiled": "compiled expression",
    "dropout": "nn.Dropout",
    "expression": "plain expression",
    "none": "no noise",
    "sparseout": "Sparseout",
    op.RMS: "Sparseout, scale rms",
    op.CHANNELS_LAST: "Sparseout, channels_last",
    op.KERNEL: "Sparseout, kernel alone",
}


def label(name: str, q: float | None) -> str:
    """Return the displayed name of a contender."""
    return _TITLES.get(name, name) + ("" if q is None else f", q = {q:g}")


def op_lines(rows: Sequence[Row]) -> tuple[str, dict[tuple[str, float | None], list[Row]]]:
    """Select the rows to show: forward and backward together, in float32 or, if it is missing, in the first dtype.

    Returns:
        The dtype, and its rows by contender and `q`, in ascending order of size.
    """
    rows = [row for row in rows if row["pass"] == "both" and row.get("rounds")]
    dtypes = [row["dtype"] for row in rows]
    dtype = "float32" if "float32" in dtypes or not dtypes else dtypes[0]
    lines: dict[tuple[str, float | None], list[Row]] = {}
    for row in sorted(rows, key=lambda row: int(row["elements"])):
        if row["dtype"] == dtype:
            lines.setdefault((row["contender"], row["q"]), []).append(row)
    return dtype, lines


def write_figure(op_rows: Sequence[Row], step_rows: Sequence[Row], path: str | Path) -> None:
    """Draw the times of the op in one dtype, and the times of training steps relative to no noise."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(5, 3.3))
    _draw_op(left, op_rows)
    _draw_steps(right, step_rows)
    save(figure, path)


def write_inference_figure(rows: Sequence[Row], path: Path) -> None:
    """Draw the speeds of the first layer that skips zeros, with quartiles, relative to the faster of torch's products."""
    from matplotlib.figure import Figure

    rows = [row for row in rows if row["width"] == rows[0]["width"]]
    cases = list(dict.fromkeys((row["batch"], row["zeros"], row["overlap"]) for row in rows))
    names = list(dict.fromkeys(row["contender"] for row in rows))
    colours = dict(zip(names, ("black", GREY, COLOURS[4], COLOURS[0], COLOURS[1]), strict=False))
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    axes = figure.subplots()
    for name in names:
        line = [row for row in rows if row["contender"] == name]
        places = [cases.index((row["batch"], row["zeros"], row["overlap"])) + 0.16 * (names.index(name) - 2) for row in line]
        speeds = [row["speed"] for row in line]
        spreads = zip(*((row["speed"] - row["speed_iqr_low"], row["speed_iqr_high"] - row["speed"]) for row in line), strict=True)
        style = {"color": colours[name], "label": name, "error_kw": {"linewidth": 0.8}}
        axes.bar(places, speeds, 0.16, yerr=list(map(list, spreads)), **style)
    labels = [f"batch {batch}\n{zeros:.0%} zeros" + ("\noverlapping" if overlap else "") for batch, zeros, overlap in cases]
    axes.set_xticks(range(len(cases)), labels)
    axes.set(yscale="log", ylabel="times as fast as the best of torch")
    axes.set_yticks([0.25, 0.5, 1, 2, 4, 8, 16, 32])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    width = rows[0]["width"]
    axes.set_title(f"A linear layer of {width} x {width}, cold weights, a new input each call", loc="left", weight="bold")
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
    save(figure, path)


def size(elements: int) -> str:
    """Format a number of elements, with a binary unit if it is a multiple of one.

    >>> size(2**22), size(3 * 2**10), size(1000)
    ('4 Mi', '3 Ki', '1000')
    """
    for unit, power in (("Mi", 20), ("Ki", 10)):
        if elements % 2**power == 0:
            return f"{elements >> power} {unit}"
    return str(elements)


def _draw_op(axes: Any, rows: Sequence[Row]) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    dtype, lines = op_lines(rows)
    ours = [q for name, q in lines if name == "sparseout" and q is not None]
    shown = min(ours, key=lambda q: abs(q - _SHOWN_Q), default=None)
    for (name, q), line in lines.items():
        if name in (op.RMS, op.CHANNELS_LAST, op.KERNEL):
            continue
        # The time of a plain expression hardly depends on q, so only its longest line is drawn.
        if line is not max((lines[key] for key in lines if key[0] == name and name != "sparseout"), key=len, default=line):
            continue
        style, text = _STYLES.get(name), label(name, q)
        if style is None:
            style = {"color": COLOURS[0], "marker": "D", **({"linewidth": 2.5} if q == shown else _FAINT)}
            text = text if q == shown else "Sparseout, other q"
        costs = [row["ns_per_element"] for row in line]
        axes.plot([row["elements"] for row in line], costs, label=text, **style)
    sizes = sorted({row["elements"] for line in lines.values() for row in line})
    axes.set(xscale="log", yscale="log", xlabel="elements", ylabel="nanoseconds per element")
    axes.set_xticks(sizes, map(size, sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_title(f"Forward and backward of the op, {dtype}", loc="left", weight="bold")
    if lines:
        handles, texts = axes.get_legend_handles_labels()
        once = dict(zip(texts, handles, strict=True))
        bold = sorted(once, key=lambda text: once[text].get_alpha() is not None)
        style = {"frameon": False, "fontsize": 9, "loc": "center left", "bbox_to_anchor": (1, 0.5)}
        axes.legend([once[text] for text in bold], bold, **style)


def _draw_steps(axes: Any, rows: Sequence[Row]) -> None:
    models = list(dict.fromkeys(row["model"] for row in rows))
    noises = list(dict.fromkeys((row["noise"], row["q"]) for row in rows if row["noise"] != "none"))
    for index, (noise, q) in enumerate(noises):
        of_noise = [row for row in rows if (row["noise"], row["q"]) == (noise, q)]
        ratios = [row["ratio_to_none"] for row in of_noise]
        below = [row["ratio_to_none"] - row["none_iqr_low"] for row in of_noise]
        above = [row["none_iqr_high"] - row["ratio_to_none"] for row in of_noise]
        at = [models.index(row["model"]) + 0.2 * (index - (len(noises) - 1) / 2) for row in of_noise]
        style = {**_STYLES.get(noise, {"color": COLOURS[0], "marker": "D"}), "linestyle": "none", "markersize": 7}
        style |= {"markerfacecolor": "white"} if q == 2 else {}
        axes.errorbar(ratios, at, xerr=(below, above), elinewidth=2, label=label(noise, q), **style)
    axes.axvline(1, color=GREY, linewidth=1)
    axes.set_yticks(range(len(models)), [model.replace("_", "\n") for model in models])
    axes.set_ylim(len(models) - 0.5, -1.1)
    axes.set_title("A training step, relative to no noise", loc="left", weight="bold")
    axes.set_xlabel("time / time without noise, median and quartiles")
    if noises:
        axes.legend(frameon=False, fontsize=9, loc="upper center", ncols=2)
