"""Two summaries, layer by layer: before and after a swap, two checkpoints, two values of q."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sparseout.checks import check_choice
from sparseout.extras import needed_for
from sparseout.probe import tables
from sparseout.probe.records import LayerRecord, Summary

if TYPE_CHECKING:
    import pandas
    from rich.table import Table


@dataclasses.dataclass(frozen=True)
class Comparison:
    """`after - before` of each measure of each layer that both have, by name, mode and call.

    Attributes:
        before, after: the summaries.
    """

    before: Summary
    after: Summary

    @property
    def pairs(self) -> list[tuple[LayerRecord, LayerRecord]]:
        """The records that both have, in the order of `before`."""
        after = {record.key: record for record in self.after.layers}
        return [(record, after[record.key]) for record in self.before.layers if record.key in after]

    @property
    def only_before(self) -> list[str]:
        """Names of the records that `after` lacks."""
        return _missing(self.before, self.after)

    @property
    def only_after(self) -> list[str]:
        """Names of the records that `before` lacks."""
        return _missing(self.after, self.before)

    def differences(self) -> list[dict[str, Any]]:
        """For each pair its `layer`, `mode` and `call`, and by measure `[before, after, after - before]`, where both have it."""
        rows = []
        for before, after in self.pairs:
            values = after.measures()
            measures = {
                name: [old, new, new - old]
                for name, old in before.measures().items()
                if old is not None and (new := values.get(name)) is not None
            }
            rows.append({"layer": before.layer, "mode": before.mode, "call": before.call, "measures": measures})
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Plain data that JSON can hold."""
        return {
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "differences": self.differences(),
            "only_before": self.only_before,
            "only_after": self.only_after,
        }

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(self.to_dict(), allow_nan=False)

    def to_pandas(self) -> pandas.DataFrame:
        """A row a layer and measure. Needs pandas."""
        with needed_for("to_pandas()", "report"):
            import pandas

        rows = [
            {"layer": row["layer"], "mode": row["mode"], "call": row["call"], "measure": name}
            | dict(zip(("before", "after", "difference"), values, strict=True))
            for row in self.differences()
            for name, values in row["measures"].items()
        ]
        return pandas.DataFrame(rows)

    def table(self, *measures: str) -> Table:
        """A table for the terminal, of the measures named or, by default, of the most telling. Needs rich."""
        return tables.rich_table(*self._cells(measures), caption="\n".join(self.remarks()))

    def remarks(self) -> list[str]:
        """Which layers could not be compared, and what keeps their measures from comparing."""
        names = (("before", self.only_before), ("after", self.only_after))
        lines = [f"only {side}: {', '.join(layers)}" for side, layers in names if layers]
        return lines + [f"{side}: {line}" for side in ("before", "after") for line in getattr(self, side).reservations()]

    def __str__(self) -> str:
        return "\n".join([tables.plain_table(*self._cells(), left=1), *self.remarks()])

    def _cells(self, measures: Sequence[str] = ()) -> tuple[list[str], list[list[str]]]:
        both = [name for name in self.before.measured() if name in self.after.measured()]
        names = [check_choice("measures", name, both) for name in measures] or tables.telling(both, most=2)
        rows = []
        for (before, _), row in zip(self.pairs, self.differences(), strict=True):
            changes = (row["measures"].get(name) for name in names)
            rows.append([before.name, *(_change(values) for values in changes)])
        return ["layer", *names], rows


def _missing(of: Summary, other: Summary) -> list[str]:
    keys = {record.key for record in other.layers}
    return [record.name for record in of.layers if record.key not in keys]


def _change(values: list[float] | None) -> str:
    return "-" if values is None else f"{tables.number(values[0])} → {tables.number(values[1])} ({values[2]:+.2g})"
