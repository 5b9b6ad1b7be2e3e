"""The summary of a probe, and the comparison of two, as plain data."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sparseout.checks import check_choice
from sparseout.extras import needed_for
from sparseout.notebook import page, plural
from sparseout.records import tables
from sparseout.records.layer_record import Histogram, LayerRecord
from sparseout.records.terminal_table import TerminalTable
from sparseout.records.unit_activity import UnitActivity

if TYPE_CHECKING:
    import pandas

FORMAT = "sparseout probe 1"
_NESTED = ("near_zero", "near_zero_rms", "histogram", "unit_activity")
_MAIN_MEASURES = ("zeros", "hoyer", "rms", "gini", "dead")
# A narrow terminal leaves out the counts, then measures that are not listed, the last one first, and then these in this order.
_COUNTS = ("vectors", "units")
_MOST_TELLING = ("rms", "dead", "zeros", "hoyer")


@dataclasses.dataclass(frozen=True)
class ProbeSettings:
    """Which measures a probe takes, and how often.

    Attributes:
        measures: names out of `MEASURE_TITLES`.
        thresholds: magnitudes below which a value counts as near zero, both absolute and as multiples of the layer's RMS.
        histogram: whether magnitudes are counted by bin.
        every: every `every`-th forward pass is measured, starting with the first.
        calls: whether the calls of a layer within one forward pass are counted `"together"` or `"apart"`.
        samples: how many samples are remembered for a unit.
    """

    measures: tuple[str, ...]
    thresholds: tuple[float, ...]
    histogram: bool
    every: int
    calls: Literal["together", "apart"]
    samples: int = 0


@dataclasses.dataclass(frozen=True, repr=False)
class Summary:
    """The measures of every probed layer. Printing it, or showing it in a notebook, gives a table.

    Attributes:
        model: the model's class.
        layers: the records, ordered by layer as registered in the model, then by mode and call.
        unseen: why activations were not measured, by layer, or by the module that calls them as functions.
        settings: which measures were taken, and how often.
        forwards: the number of forward passes `"seen"` and `"measured"`, by mode.
        provenance: versions, device and date.
    """

    model: str
    layers: tuple[LayerRecord, ...]
    unseen: Mapping[str, str]
    settings: ProbeSettings
    forwards: Mapping[str, Mapping[str, int]]
    provenance: Mapping[str, str]

    def __getitem__(self, layer: str) -> LayerRecord:
        """Return the record of a layer that has exactly one.

        Raises:
            KeyError: the layer has no record, or several modes or calls.
        """
        found = [record for record in self.layers if record.layer == layer]
        if len(found) != 1:
            raise KeyError(f"{layer!r} has {len(found)} records of {len(self.layers)}")
        return found[0]

    def measured(self) -> tuple[str, ...]:
        """Return the names of the measures that at least one record has."""
        names = dict.fromkeys(name for record in self.layers for name in record.measures())
        return tuple(name for name in names if any(record.measures().get(name) is not None for record in self.layers))

    def compare(self, after: Summary) -> Comparison:
        """Compare this summary with a later one: `after - before` for each measure and layer."""
        return Comparison(self, after)

    def to_dict(self) -> dict[str, Any]:
        """Return the content as plain data for JSON."""
        return {"format": FORMAT, **dataclasses.asdict(self)}

    def to_json(self) -> str:
        """Return the content as one line of JSON."""
        return json.dumps(self.to_dict(), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Summary:
        """Return the summary that `to_json` wrote.

        Raises:
            ValueError: `text` is not such a summary.
        """
        try:
            data = json.loads(text)
            if data.pop("format") != FORMAT:
                raise ValueError(f"the format must be {FORMAT!r}")
            settings = ProbeSettings(**_with_tuples(data["settings"], "measures", "thresholds"))
            return cls(**{**data, "settings": settings, "layers": tuple(map(_record, data["layers"]))})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not a probe's summary in JSON ({type(error).__name__}: {error})") from error

    @classmethod
    def read(cls, path: str | Path) -> Summary:
        """Read a summary from a file that holds `to_json()`.

        Raises:
            ValueError: the file does not hold a summary.
        """
        try:
            return cls.from_json(Path(path).read_text())
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def to_pandas(self) -> pandas.DataFrame:
        """Return a data frame with one row per record. Needs pandas."""
        with needed_for("to_pandas()", "data"):
            import pandas

        rows = [
            {name: value for name, value in vars(record).items() if name not in _NESTED} | record.measures()
            for record in self.layers
        ]
        return pandas.DataFrame(rows)

    def table(self, *measures: str) -> TerminalTable:
        """Return a table for the terminal, with the named measures or, by default, the main ones. Needs rich.

        Names of layers are shown whole. Columns that do not fit the terminal are left out, and the caption names them.
        """
        return _terminal_table(*self._cells(measures, types=False), self.remarks())

    def remarks(self) -> list[str]:
        """List notes on the numbers: forward passes measured, layers not measured or called several times, and `caveats`."""
        lines = [f"{mode}: {seen['measured']} of {seen['seen']} forward passes measured" for mode, seen in self.forwards.items()]
        for reason in dict.fromkeys(self.unseen.values()):
            names = [name or "(model)" for name, why in self.unseen.items() if why == reason]
            lines.append(f"not measured: {', '.join(names)}: {reason}")
        for record in self.layers:
            passes = self.forwards.get(record.mode, {}).get("measured", 0)
            if record.call is None and record.calls > passes > 0:
                lines.append(f"{record.name}: {record.calls} calls in {passes} forward passes, counted together")
        return lines + self.caveats()

    def caveats(self) -> list[str]:
        """List the records that include NaN or Inf, or padding."""
        lines = []
        for record in self.layers:
            if record.nonfinite_vectors:
                lines.append(f"{record.name}: {record.nonfinite_vectors} of {record.vectors} vectors with NaN or Inf")
            if record.padding is None:
                lines.append(f"{record.name}: {record.unread_mask or 'a mask does not fit its value'}, so padding is included")
        return lines

    def __str__(self) -> str:
        return "\n".join([tables.plain_table(*self._cells()), *self.remarks()])

    def __repr__(self) -> str:
        modes = ", ".join(f"{seen['measured']} forward passes in {mode}" for mode, seen in self.forwards.items())
        unseen = f", {len(self.unseen)} not fully measured" if self.unseen else ""
        return f"Summary of {self.model}: {plural(len(self.layers), 'record')} of {modes or 'no forward pass'}{unseen}"

    def _repr_html_(self) -> str:
        header, rows = self._cells()
        left = 3 if "mode" in header else 2
        return page([repr(self)], [header, *rows] if rows else [], self.remarks(), left)

    def _cells(self, measures: Sequence[str] = (), types: bool = True) -> tuple[list[str], list[list[str]]]:
        names = [check_choice("measures", name, self.measured()) for name in measures] or _main_measures(self.measured())
        modes = len({record.mode for record in self.layers}) > 1
        header = ["layer", *(["type"] if types else []), *(["mode"] if modes else []), "units", "vectors", *names]
        rows = []
        for record in self.layers:
            values = record.measures()
            own = [record.name, *([record.type] if types else []), *([record.mode] if modes else [])]
            counts = ["varies" if record.units is None else str(record.units), str(record.vectors)]
            rows.append([*own, *counts, *(tables.number(values.get(name)) for name in names)])
        return header, rows


@dataclasses.dataclass(frozen=True, repr=False)
class Comparison:
    """Two summaries, and `after - before` for each measure of the records that both have, matched by layer, mode and call.

    Attributes:
        before, after: the summaries.
    """

    before: Summary
    after: Summary

    @property
    def pairs(self) -> list[tuple[LayerRecord, LayerRecord]]:
        """The pairs of records that both summaries have, in the order of `before`."""
        after = {record.key: record for record in self.after.layers}
        return [(record, after[record.key]) for record in self.before.layers if record.key in after]

    @property
    def only_before(self) -> list[str]:
        """The names of the records missing from `after`."""
        return _missing(self.before, self.after)

    @property
    def only_after(self) -> list[str]:
        """The names of the records missing from `before`."""
        return _missing(self.after, self.before)

    def differences(self) -> list[dict[str, Any]]:
        """Return a row per pair: `layer`, `mode`, `call`, and `[before, after, after - before]` by measure that both have."""
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
        """Return the content as plain data for JSON."""
        return {
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "differences": self.differences(),
            "only_before": self.only_before,
            "only_after": self.only_after,
        }

    def to_json(self) -> str:
        """Return the content as one line of JSON."""
        return json.dumps(self.to_dict(), allow_nan=False)

    def to_pandas(self) -> pandas.DataFrame:
        """Return a data frame with one row per record and measure. Needs pandas."""
        with needed_for("to_pandas()", "data"):
            import pandas

        rows = [
            {"layer": row["layer"], "mode": row["mode"], "call": row["call"], "measure": name}
            | dict(zip(("before", "after", "difference"), values, strict=True))
            for row in self.differences()
            for name, values in row["measures"].items()
        ]
        return pandas.DataFrame(rows)

    def table(self, *measures: str) -> TerminalTable:
        """Return a table for the terminal, with the named measures or, by default, the main ones. Needs rich."""
        return _terminal_table(*self._cells(measures), self.remarks())

    def remarks(self) -> list[str]:
        """List the records that only one side has, and the caveats of both sides."""
        names = (("before", self.only_before), ("after", self.only_after))
        lines = [f"only {side}: {', '.join(layers)}" for side, layers in names if layers]
        return lines + [f"{side}: {line}" for side in ("before", "after") for line in getattr(self, side).caveats()]

    def __str__(self) -> str:
        return "\n".join([tables.plain_table(*self._cells(), left=1), *self.remarks()])

    def __repr__(self) -> str:
        only = f", {len(self.only_before)} only before, {len(self.only_after)} only after"
        missing = only if self.only_before or self.only_after else ""
        models = dict.fromkeys((self.before.model, self.after.model))
        return f"Comparison of {' and '.join(models)}: {plural(len(self.pairs), 'record')} on both sides{missing}"

    def _repr_html_(self) -> str:
        header, rows = self._cells()
        return page([repr(self)], [header, *rows] if rows else [], self.remarks(), 2 if "mode" in header else 1)

    def _cells(self, measures: Sequence[str] = ()) -> tuple[list[str], list[list[str]]]:
        both = [name for name in self.before.measured() if name in self.after.measured()]
        names = [check_choice("measures", name, both) for name in measures] or _main_measures(both, most=2)
        modes = len({before.mode for before, _ in self.pairs}) > 1
        rows = []
        for (before, _), row in zip(self.pairs, self.differences(), strict=True):
            changes = (row["measures"].get(name) for name in names)
            rows.append([before.name, *([before.mode] if modes else []), *(_change(values) for values in changes)])
        return ["layer", *(["mode"] if modes else []), *names], rows


def _record(data: dict[str, Any]) -> LayerRecord:
    histogram = data["histogram"] and Histogram(**_with_tuples(data["histogram"], "edges", "counts"))
    units = UnitActivity.from_dict(data["unit_activity"]) if data.get("unit_activity") else None
    return LayerRecord(**{**_with_tuples(data, "unit_dim"), "histogram": histogram, "unit_activity": units})


def _with_tuples(data: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return `data` with the named lists turned into tuples, as JSON has none."""
    return data | {name: tuple(data[name]) for name in names}


def _main_measures(measures: Sequence[str], most: int = len(_MAIN_MEASURES)) -> list[str]:
    """Return all `measures` if there are at most `most`, otherwise the first `most` main ones among them."""
    return list(measures) if len(measures) <= most else [name for name in measures if name in _MAIN_MEASURES[:most]]


def _terminal_table(header: list[str], rows: list[list[str]], remarks: Sequence[str]) -> TerminalTable:
    """Return a table for the terminal that has the names of the layers and one measure at least."""
    measures = [name for name in header if name not in ("layer", "mode", *_COUNTS)]
    others = [name for name in reversed(measures) if name not in _MOST_TELLING]
    order = [*others, *(name for name in _MOST_TELLING if name in measures)]
    return TerminalTable(header, rows, "\n".join(remarks), leave_out=[*_COUNTS, *order[:-1]])


def _missing(of: Summary, other: Summary) -> list[str]:
    keys = {record.key for record in other.layers}
    return [record.name for record in of.layers if record.key not in keys]


def _change(values: list[float] | None) -> str:
    return "-" if values is None else f"{tables.number(values[0])} → {tables.number(values[1])} ({values[2]:+.2g})"
