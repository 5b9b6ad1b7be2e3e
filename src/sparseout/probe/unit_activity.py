"""How often the units of a layer fire, from the sums by unit."""

from __future__ import annotations

import math

from sparseout.probe.excitations import Excitations
from sparseout.probe.sums import Sums
from sparseout.records.unit_activity import ALMOST_DEAD, Unit, UnitActivity

DEAD, QUIETEST, LOUDEST = 32, 8, 4  # the units that a record describes one by one
POINTS = 65  # length of the curve of firing rates


def unit_activity(sums: Sums, excitations: Excitations) -> UnitActivity | None:
    """Return how often each unit fires; None without sums by unit, or if every vector has NaN or Inf."""
    if not sums.by_unit or sums.basic["nonfinite"] >= sums.vectors:
        return None
    fired = [round(sums.vectors - zeros) for zeros in sums.by_unit["zeros"].tolist()]
    mean = sums.by_unit["absolute"].nan_to_num(math.inf).tolist()
    order = sorted(range(len(fired)), key=lambda unit: (fired[unit], mean[unit], unit))
    dead = sum(not count for count in fired)
    points = min(len(order), POINTS)
    ranks = [round(i * (len(order) - 1) / max(1, points - 1)) for i in range(points)]
    alive = order[dead:]

    def described(units: list[int]) -> tuple[Unit, ...]:
        return tuple(Unit(unit, fired[unit], excitations.of(unit)) for unit in units)

    return UnitActivity(
        dead=dead,
        almost_dead=sum(0 < count < ALMOST_DEAD * sums.vectors for count in fired),
        rates=tuple(fired[order[rank]] / sums.vectors for rank in ranks),
        quietest=described(order[:dead][:DEAD] + alive[:QUIETEST]),
        loudest=described(alive[QUIETEST:][: -LOUDEST - 1 : -1]),
    )
