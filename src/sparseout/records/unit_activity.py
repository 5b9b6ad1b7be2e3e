"""Which units of a layer fired, how often, and the samples that excite them most, as plain data of bounded size."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

ALMOST_DEAD = 0.01  # a unit that fires in a smaller fraction of the vectors, but not in none, is almost dead


@dataclasses.dataclass(frozen=True)
class Excitation:
    """A sample that excites a unit.

    Attributes:
        sample: the index of the sample among all that the model was called on, from 0: along the first dimension of its input.
        position: the index of the vector within the sample, such as a token or, row by row, a position in an image.
        positions: the number of vectors in the sample, with padding.
        value: the largest magnitude `|x|` of the unit in the sample.
        rank: the rank of the process that saw the sample. Each rank counts its own samples.
    """

    sample: int
    position: int
    positions: int
    value: float
    rank: int = 0


@dataclasses.dataclass(frozen=True)
class Unit:
    """A unit of a layer.

    Attributes:
        unit: its index in the vector.
        fired: the number of vectors in which it is not zero.
        samples: the samples that excite it most, the strongest first; empty if they were not recorded, or if it never fired.
    """

    unit: int
    fired: int
    samples: tuple[Excitation, ...] = ()


@dataclasses.dataclass(frozen=True)
class UnitActivity:
    """How often the units of a layer fire: all of them as a curve, and the least and the most active of them one by one.

    Attributes:
        dead: the number of units that are zero in every vector.
        almost_dead: the number of other units that are not zero in less than 1 % of the vectors.
        rates: the fractions of vectors in which units fire, from the least active unit to the most active one: of every unit of a
            layer of up to 65, otherwise of 65 units at evenly spaced ranks.
        quietest: of units that fire equally often, the one with the smaller magnitudes is the less active one.
            At most 32 units that never fire, then the 8 other units that fire least often, in ascending order.
        loudest: the 4 units that fire most often, in descending order, without those among `quietest`.
    """

    dead: int
    almost_dead: int
    rates: tuple[float, ...]
    quietest: tuple[Unit, ...]
    loudest: tuple[Unit, ...]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> UnitActivity:
        """Return the object whose `dataclasses.asdict` is `data`, also after a way through JSON."""
        units = {name: tuple(map(_unit, data[name])) for name in ("quietest", "loudest")}
        return cls(**{**data, "rates": tuple(data["rates"]), **units})


def _unit(data: Mapping[str, Any]) -> Unit:
    return Unit(**{**data, "samples": tuple(Excitation(**sample) for sample in data["samples"])})
