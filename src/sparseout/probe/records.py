"""What a probe found: a record a layer, and the summary that holds them; plain data from here on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparseout.checks import check_choice
from sparseout.extras import needed_for
from sparseout.probe import tables
from sparseout.probe.measures import MEASURES, Histogram, Settings

if TYPE_CHECKING:
    import pandas
    from rich.table import Table

    from sparseout.probe.comparison import Comparison

FORMAT = "sparseout probe 1"
_NESTED = ("near_zero", "near_zero_rms", "histogram")


@dataclasses.dataclass(frozen=True)
class LayerRecord:
    """One layer in one mode. A measure that was not asked for, or does not exist, is None.

    Attributes:
        layer, type: the module's path in the model and its class.
        mode: `"train"` or `"eval"`.
        call: which of its calls in a forward pass this is, from 1; None where they are counted together.
        value: `"output"`, or the `"clean input"` of a Dropout or Sparseout.
        unit_dim: dimensions of the value that hold the units of a vector.
        units: how many a vector has; None where vectors differ.
        calls, vectors: how many were measured.
        zero_vectors, single_vectors, nonfinite_vectors: how many were all zero (their Hoyer sparseness is 1), had one unit (they
            have none), or had a NaN or Inf (which make means None).
        padding: vectors left out because a mask says that they are no tokens; None where a mask could not be understood.
        zeros, rms, mean, std: over all elements.
        hoyer, gini, treves_rolls, kurtosis, participation_ratio: means over the vectors.
        lifetime, dead, always_on: over the units; None where vectors differ in their number.
        near_zero: fraction of `|x| < t` by threshold `t`.
        near_zero_rms: fraction of `|x| < t rms`, read off the histogram, in proportion within a bin.
        histogram: of the magnitudes.
        unread_mask: why `padding` is None.
    """

    layer: str
    type: str
    mode: str
    call: int | None
    value: str
    unit_dim: tuple[int, ...]
    units: int | None
    calls: int
    vectors: int
    zero_vectors: int
    single_vectors: int
    nonfinite_vectors: int
    padding: int | None
    zeros: float | None = None
    hoyer: float | None = None
    rms: float | None = None
    gini: float | None = None
    treves_rolls: float | None = None
    kurtosis: float | None = None
    participation_ratio: float | None = None
    lifetime: float | None = None
    dead: float | None = None
    always_on: float | None = None
    mean: float | None = None
    std: float | None = None
    near_zero: Mapping[str, float] = dataclasses.field(default_factory=dict)
    near_zero_rms: Mapping[str, float] = dataclasses.field(default_factory=dict)
    histogram: Histogram | None = None
    unread_mask: str | None = None

    @property
    def key(self) -> tuple[str, str, int | None]:
        """What tells a record from the others of a summary."""
        return self.layer, self.mode, self.call

    @property
    def name(self) -> str:
        """The layer, and which call where they are counted apart."""
        return (self.layer or "(model)") + (f" #{self.call}" if self.call else "")

    def measures(self) -> dict[str, float | None]:
        """All measures that are single numbers, thresholds among them."""
        result = {name: getattr(self, name) for name in MEASURES}
        result |= {f"|x| < {t}": value for t, value in self.near_zero.items()}
        return result | {f"|x| < {t} RMS": value for t, value in self.near_zero_rms.items()}


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
        from sparseout.probe.comparison import Comparison

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


def _record(data: dict[str, Any]) -> LayerRecord:
    histogram = data["histogram"] and Histogram(**_with_tuples(data["histogram"], "edges", "counts"))
    return LayerRecord(**{**_with_tuples(data, "unit_dim"), "histogram": histogram})


def _with_tuples(data: dict[str, Any], *names: str) -> dict[str, Any]:
    """`data` with the tuples that JSON made lists of."""
    return data | {name: tuple(data[name]) for name in names}
