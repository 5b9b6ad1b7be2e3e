"""The verdict on a model in plain words: what is wrong, what was not seen, and what is sparse."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Literal

from sparseout.records.layer_record import LayerRecord
from sparseout.records.probe_summary import Summary

# For long vectors, Hoyer sparseness is 0.20 for independent Gaussian values, and 0.44 for the same values after a ReLU.
DENSE, SPARSE = 0.25, 0.5
MOST_NAMES = 3  # of layers in a sentence
FEW_ZEROS = 1e-3

Kind = Literal["not finite", "dead", "not seen", "fine", "sparse", "not sparse", "moderate", "dense", "next"]


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a verdict: its kind, a sentence or a few, and the code that it recommends, if any."""

    kind: Kind
    text: str
    code: str = ""


def verdict(summary: Summary, mode: str) -> list[Line]:
    """Return the verdict on a summary: problems of all modes first, then which layers are sparse in `mode`."""
    lines = [*_not_finite(summary.layers), *_dead_layers(summary.layers), *_dead_units(summary.layers), *_unseen(summary)]
    lines.sort(key=lambda line: line.kind == "fine")
    return lines + _sparse([record for record in summary.layers if record.mode == mode])


def is_dead(record: LayerRecord) -> bool:
    """Return whether every value of a layer is zero."""
    return record.zero_vectors == record.vectors


def dead_units(record: LayerRecord) -> int | None:
    """Return the number of units that never fired; None if it was not measured."""
    if record.unit_activity:
        return record.unit_activity.dead
    return None if record.dead is None or record.units is None else round(record.dead * record.units)


def state_of(record: LayerRecord) -> str:
    """Return what is wrong with a layer, in a few words; empty if nothing is."""
    if record.nonfinite_vectors:
        return "NaN or Inf"
    return "dead" if is_dead(record) else ""


def urgency(record: LayerRecord) -> int:
    """Return a number by which layers without finite values and dead layers come first."""
    return 0 if record.nonfinite_vectors else 1 if is_dead(record) else 2


def counted(number: int, noun: str) -> str:
    """Return a number with its noun.

    >>> counted(1, "layer"), counted(1200, "unit")
    ('1 layer', '1,200 units')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(names: Iterable[str], most: int = MOST_NAMES) -> str:
    """Return names as a list in words, without those beyond `most`.

    >>> listed("abc"), listed("abcdefg")
    ('a, b and c', 'a, b, c and 4 more')
    """
    every = list(dict.fromkeys(names))
    first, rest = (every[:-1], every[-1]) if len(every) <= most else (every[:most], f"{len(every) - most:,} more")
    return f"{', '.join(first)} and {rest}" if first else rest


def _not_finite(records: Sequence[LayerRecord]) -> list[Line]:
    wrong = [record for record in records if record.nonfinite_vectors]
    if not wrong:
        return [Line("fine", "No layer has NaN or Inf.")]
    first = wrong[0]
    share = f"{first.nonfinite_vectors:,} of {counted(first.vectors, 'vector')}"
    names = dict.fromkeys(record.name for record in wrong)
    if len(names) == 1:
        text = f"{first.name} has NaN or Inf in {share}."
    else:
        text = f"{len(names):,} layers have NaN or Inf: {listed(names)}. {first.name} is the first, in {share}."
    return [Line("not finite", f"{text} Means over such values do not exist, and show as a dash.")]


def _dead_layers(records: Sequence[LayerRecord]) -> list[Line]:
    dead = [record for record in records if is_dead(record)]
    if not dead:
        return []
    found = len({record.name for record in dead})
    start = f"{counted(found, 'layer')} {'is' if found == 1 else 'are'} dead: {listed(record.name for record in dead)}."
    return [Line("dead", f"{start} All values were zero in all {counted(dead[0].vectors, 'vector')}, so nothing passes through.")]


def _dead_units(records: Sequence[LayerRecord]) -> list[Line]:
    """Describe the units that never or almost never fired, in the layers that are alive."""
    alive = [record for record in records if not is_dead(record) and not record.nonfinite_vectors]
    known = [(record, dead) for record in alive if (dead := dead_units(record)) is not None]
    if not known:
        return [Line("not seen", "Dead units were not counted: only measures='all' counts them.")] if alive else []
    vectors = sorted({record.vectors for record, _ in known})
    over = f"{vectors[0]:,} to {counted(vectors[-1], 'vector')}" if len(vectors) > 1 else counted(vectors[0], "vector")
    lines = []
    worst = sorted((each for each in known if each[1]), key=lambda each: -each[1])
    if worst:
        total, units = sum(dead for _, dead in worst), sum(record.units or 0 for record, _ in known)
        where = listed(f"{record.name} ({dead:,} of {record.units:,})" for record, dead in worst)
        text = f"{total:,} of {counted(units, 'unit')} never fired: they were zero in each of {over}. They are in {where}."
        lines.append(Line("dead", text))
    almost = [(record, record.unit_activity.almost_dead) for record, _ in known if record.unit_activity]
    almost = sorted((each for each in almost if each[1]), key=lambda each: -each[1])
    if almost:
        where = listed(f"{record.name} ({units:,})" for record, units in almost)
        total = sum(units for _, units in almost)
        lines.append(Line("dead", f"{counted(total, 'unit')} almost never fired, in less than 1 % of the vectors: {where}."))
    if lines:
        return lines
    text = f"Every unit of {counted(len(known), 'layer')} fired in at least one of {over}."
    if any(record.zeros is not None and record.zeros < FEW_ZEROS for record, _ in known):
        text += " This says little about functions that are hardly ever exactly zero, such as GELU."
    return [Line("fine", text)]


def _unseen(summary: Summary) -> list[Line]:
    lines = []
    for reason in dict.fromkeys(summary.unseen.values()):
        names = listed(name or "the model" for name, why in summary.unseen.items() if why == reason)
        lines.append(Line("not seen", f"{names}: {reason}."))
    return lines


def _sparse(records: Sequence[LayerRecord]) -> list[Line]:
    """Describe which layers are sparse, by Hoyer sparseness or, if it was not measured, by zeros."""
    alive = [record for record in records if not is_dead(record) and not record.nonfinite_vectors]
    known = [(record, record.hoyer) for record in alive if record.hoyer is not None]
    if not known:
        return _sparse_by_zeros(alive)
    groups: dict[Kind, list[tuple[LayerRecord, float]]] = {
        "sparse": sorted((each for each in known if each[1] >= SPARSE), key=lambda each: -each[1]),
        "moderate": [each for each in known if DENSE <= each[1] < SPARSE],
        "dense": sorted((each for each in known if each[1] < DENSE), key=lambda each: each[1]),
    }
    meaning = {
        "sparse": f"sparse (Hoyer sparseness {SPARSE:g} or more): few units of a vector carry most of its activity",
        "moderate": f"moderately sparse ({DENSE:g} to {SPARSE:g}), like random numbers after a ReLU (0.44)",
        "dense": f"dense (below {DENSE:g}), like random numbers (0.20): most units take part in every vector",
    }
    lines = []
    for kind, group in groups.items():
        if group:
            names = listed(f"{record.name} ({_values(record)})" for record, _ in group)
            lines.append(Line(kind, f"{_of(len(group), len(records))} {meaning[kind]}: {names}."))
    if not groups["sparse"]:
        lines.insert(0, Line("not sparse", f"No layer is sparse: none has Hoyer sparseness {SPARSE:g} or more."))
    return lines


def _sparse_by_zeros(records: Sequence[LayerRecord]) -> list[Line]:
    known = sorted(((record.name, record.zeros) for record in records if record.zeros is not None), key=lambda each: -each[1])
    if not known:
        return [Line("not seen", "Sparsity was not measured: neither Hoyer sparseness nor the fraction of zeros.")]
    sparse = [f"{name} ({_percent(zeros)})" for name, zeros in known if zeros >= 0.5]
    if sparse:
        return [Line("sparse", f"{_of(len(sparse), len(records))} at least half zeros: {listed(sparse)}.")]
    return [Line("dense", f"No layer is at least half zeros; {known[0][0]} comes nearest ({_percent(known[0][1])}).")]


def _values(record: LayerRecord) -> str:
    zeros = f", {_percent(record.zeros)} zeros" if record.zeros is not None and record.zeros >= FEW_ZEROS else ""
    return f"{record.hoyer:.2f}{zeros}"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.3g} %"


def _of(number: int, total: int) -> str:
    return f"{number:,} of {counted(total, 'layer')} {'is' if number == 1 else 'are'}"
