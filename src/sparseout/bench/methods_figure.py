"""The figure of what each method adds to a training step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sparseout.bench.figure import label
from sparseout.bench.op import Row
from sparseout.report.figure import COLOURS, save

LEAST = 1e-2  # milliseconds; the left end of the axis


def write_methods_figure(rows: Sequence[Row], path: str | Path) -> None:
    """Draw the milliseconds that each method adds to a training step, with quartiles, in a panel for each model."""
    from matplotlib.figure import Figure

    rows = [row for row in rows if not row["case"].startswith("topk")]  # a selection is no step
    highest = 2 * max((row["added_iqr_high"] for row in rows), default=1.0)
    cases = list(dict.fromkeys(row["case"] for row in rows))
    of_case = {case: [row for row in rows if row["case"] == case] for case in cases}
    figure = Figure(figsize=(9, 1.2 * len(cases) + 0.27 * len(rows)), layout="constrained")
    panels = figure.subplots(len(cases), 1, squeeze=False, sharex=True, height_ratios=[len(of_case[case]) + 1 for case in cases])
    for axes, case in zip(panels[:, 0], cases, strict=True):
        first, *others = of_case[case]
        others = sorted(others, key=lambda row: row["added_ms"])
        for position, row in enumerate(others):
            middle, low, high = (max(row[name], LEAST) for name in ("added_ms", "added_iqr_low", "added_iqr_high"))
            colour = COLOURS[0] if row["method"] == "Sparseout" else COLOURS[1]
            style = {"color": colour, "marker": "D" if row["method"] == "Sparseout" else "o", "elinewidth": 2}
            # Differences of noisy times can be negative, and a logarithmic axis cannot show them.
            axes.errorbar(middle, position, xerr=[[max(middle - low, 0)], [max(high - middle, 0)]], **style)
        axes.set_yticks(range(len(others)), [label(row["method"], row["q"]) for row in others])
        axes.set_ylim(len(others) - 0.5, -0.5)
        axes.set(xscale="log", xlim=(LEAST, max(highest, 10 * LEAST)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.tick_params(labelbottom=True)
        step = f"{first['milliseconds']:.3g} ms"
        axes.set_title(f"{case}: added to a step of {step} without a method", loc="left", weight="bold", fontsize=10)
    panels[-1, 0].set_xlabel(f"milliseconds added, median and quartiles (values below {LEAST:g} are drawn there)")
    save(figure, path)
