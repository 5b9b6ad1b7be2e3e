"""The figure of what each method adds to a training step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sparseout.bench.figure import label
from sparseout.bench.op import Row
from sparseout.report.figure import COLOURS, save

LEAST = 1e-3  # milliseconds; the left end of the axis, below what can be measured


def write_methods_figure(rows: Sequence[Row], path: Path) -> None:
    """Draw the milliseconds that each method adds to the first method of its case, with quartiles, in a panel for each case."""
    from matplotlib.figure import Figure

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
        axes.set(xscale="log", xlim=(LEAST, None))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.tick_params(labelbottom=True)
        against = label(first["method"], None)
        axes.set_title(f"{case}: added to {against} ({first['milliseconds']:.3g} ms)", loc="left", weight="bold", fontsize=10)
    panels[-1, 0].set_xlabel("milliseconds added, median and quartiles (values below 0.001 are drawn there)")
    save(figure, path)
