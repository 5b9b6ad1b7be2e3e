"""Tables, figures and pages, made from records alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sparseout.extras import needed_for

with needed_for("sparseout.report", "report"):
    from sparseout.records.files import Location, as_location
    from sparseout.report.figure import write_figure
    from sparseout.report.methods import methods_of
    from sparseout.report.methods_figure import write_methods
    from sparseout.report.probe import write_probe
    from sparseout.report.samples import Excerpt
    from sparseout.report.study import write_page
    from sparseout.report.table import table
    from sparseout.report.targets import write_targets
    from sparseout.report.tuning import tuning_sentences, tuning_table, write_tuning

__all__ = ["Excerpt", "table", "tuning_sentences", "tuning_table", "write", "write_probe"]


def write(
    records: Sequence[Mapping[str, Any]],
    histories: Mapping[str, Sequence[Mapping[str, Any]]],
    out: str | Location,
    left_out: Iterable[str] = (),
    choice: Mapping[str, Any] | None = None,
) -> None:
    """Write the figures and `report.html` of a study into the folder `out`.

    They are `sparsity.png`, `methods.png` if there are several methods with targets, and `tuning.png` for a tuned study.

    Args:
        records: the summaries of a study's runs.
        histories: the epochs of each run, by its `run`.
        out: an existing folder.
        left_out: one sentence for each folder or file that was left out, with the reason. It is read after the histories.
        choice: what the tune stage chose; None for a study that was not tuned.
    """
    out = as_location(out)
    if any("control" in record for record in records):
        write_targets(records, histories, out / "sparsity.png", choice)
    else:
        write_figure(records, out / "sparsity.png", choice)
    if methods_of(records):
        write_methods(records, out / "methods.png", choice)
    if choice:
        write_tuning(choice, out / "tuning.png")
    write_page(records, histories, out / "report.html", left_out, choice)
