"""What a probe found: a record a layer, and the summary that holds them; plain data from here on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparseout.checks import check_choice
from sparseout.extras import needed_for
from sparseout.probe.layer_record import LayerRecord
from sparseout.probe.measures import Histogram, Settings
from sparseout.records import tables

if TYPE_CHECKING:
    import pandas
    from rich.table import Table

FORMAT = "sparseout probe 1"
_NESTED = ("near_zero", "near_zero_rms", "histogram")


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a probe found, and how it was measured.

    Attributes:
        model: the model's class.
        layers: the records, by layer in the order of registration, then by mode and call.
        unseen: activations that were not measured, with the reason.
        settings: what was measured, and how often.
        forwards: by mode, how many forward passes there were and how many were measured.
        provenance: versions, device and date.
    """

    model: str
    layers: tuple[LayerRecord, ...]
    unseen: Mapping[str, str]
    settings: Settings
    forwards: Mapping[str, Mapping[str, int]]
    provenance: Mapping[str, str]

    def __getitem__(self, layer: str) -> LayerRecord:
        """The record of a layer that has one alone.

        Raises:
            KeyError: it has none, or several modes or calls.
        """
        found = [record for record in self.layers if record.layer == layer]
        if len(found) != 1:
            raise KeyError(f"{layer!r} has {len(found)} records of {len(self.layers)}")
        return found[0]

    def measured(self) -> tuple[str, ...]:
        """Names of the measures that any record has, in their order."""
        names = dict.fromkeys(name for record in self.layers for name in record.measures())
        return tuple(name for name in names if any(record.measures().get(name) is not None for record in self.layers))

    def compare(self, after: Summary) -> Comparison:
        """This summary and a later one, layer by layer: `after - before` of each measure."""
        return Comparison(self, after)

    def to_dict(self) -> dict[str, Any]:
        """Plain data that JSON can hold."""
        return {"format": FORMAT, **dataclasses.asdict(self)}

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Summary:
        """The summary that `to_json` wrote.

        Raises:
            ValueError: `text` is something else.
        """
        try:
            data = json.loads(text)
            if data.pop("format") != FORMAT:
                raise ValueError("another format")
            settings = Settings(**_with_tuples(data["settings"], "measures", "thresholds"))
            return cls(**{**data, "settings": settings, "layers": tuple(map(_record, data["layers"]))})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"this is no summary of a probe in JSON ({type(error).__name__}: {error})") from error

    @classmethod
    def read(cls, path: str | Path) -> Summary:
        """The summary in a file that holds `to_json()`.

        Raises:
            ValueError: the file holds something else.
        """
        try:
            return cls.from_json(Path(path).read_text())
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def to_pandas(self) -> pandas.DataFrame:
        """A row a record. Needs pandas."""
        with needed_for("to_pandas()", "report"):
            import pandas

        rows = [
            {name: value for name, value in vars(record).items() if name not in _NESTED} | record.measures()
            for record in self.layers
        ]
        return pandas.DataFrame(rows)

    def table(self, *measures: str) -> Table:
        """A table for the terminal, of the measures named or, by default, of the most telling. Needs rich."""
        return tables.rich_table(*self._cells(measures, types=False), caption="\n".join(self.remarks()))

    def remarks(self) -> list[str]:
        """What to know beside the numbers: sampling, layers that were not seen or ran several times, vectors that are special."""
        lines = [f"{mode}: {seen['measured']} of {seen['seen']} forward passes measured" for mode, seen in self.forwards.items()]
        for reason in dict.fromkeys(self.unseen.values()):
            names = [name or "(model)" for name, why in self.unseen.items() if why == reason]
            lines.append(f"not seen: {', '.join(names)}: {reason}")
        for record in self.layers:
            passes = self.forwards.get(record.mode, {}).get("measured", 0)
            if record.call is None and record.calls > passes > 0:
                lines.append(f"{record.name}: {record.calls} calls in {passes} forward passes, counted together")
        return lines + self.reservations()

    def reservations(self) -> list[str]:
        """Which records are not of finite vectors of tokens alone."""
        lines = []
        for record in self.layers:
            if record.nonfinite_vectors:
                lines.append(f"{record.name}: {record.nonfinite_vectors} of {record.vectors} vectors with NaN or Inf")
            if record.padding is None:
                lines.append(f"{record.name}: {record.unread_mask or 'a mask does not fit its value'}, so padding is counted")
        return lines

    def __str__(self) -> str:
        return "\n".join([tables.plain_table(*self._cells()), *self.remarks()])

    def _cells(self, measures: Sequence[str] = (), types: bool = True) -> tuple[list[str], list[list[str]]]:
        names = [check_choice("measures", name, self.measured()) for name in measures] or tables.telling(self.measured())
        modes = len({record.mode for record in self.layers}) > 1
        header = ["layer", *(["type"] if types else []), *(["mode"] if modes else []), "units", "vectors", *names]
        rows = []
        for record in self.layers:
            values = record.measures()
            own = [record.name, *([record.type] if types else []), *([record.mode] if modes else [])]
            counts = ["varies" if record.units is None else str(record.units), str(record.vectors)]
            rows.append([*own, *counts, *(tables.number(values.get(name)) for name in names)])
        return header, rows


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


def _record(data: dict[str, Any]) -> LayerRecord:
    histogram = data["histogram"] and Histogram(**_with_tuples(data["histogram"], "edges", "counts"))
    return LayerRecord(**{**_with_tuples(data, "unit_dim"), "histogram": histogram})


def _with_tuples(data: dict[str, Any], *names: str) -> dict[str, Any]:
    """`data` with the tuples that JSON made lists of."""
    return data | {name: tuple(data[name]) for name in names}


def _missing(of: Summary, other: Summary) -> list[str]:
    keys = {record.key for record in other.layers}
    return [record.name for record in of.layers if record.key not in keys]


def _change(values: list[float] | None) -> str:
    return "-" if values is None else f"{tables.number(values[0])} → {tables.number(values[1])} ({values[2]:+.2g})"
