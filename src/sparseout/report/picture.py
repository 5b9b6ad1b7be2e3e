"""A picture of what Hoyer sparseness means: the magnitudes of a dense and of a sparse vector."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

_DENSE = (0.8, 0.65, 1, 0.7, 0.9, 0.55, 0.75, 0.95, 0.6, 0.85, 0.7, 0.9)
_SPARSE = (0, 0.08, 0, 0, 1, 0, 0.05, 0, 0, 0.3, 0, 0)
BAR, GAP, HEIGHT = 8, 2, 48  # in pixels


@dataclasses.dataclass(frozen=True)
class Bars:
    """A vector as bars `(x, y, width, height)`, and its Hoyer sparseness."""

    label: str
    hoyer: float
    width: int
    height: int
    bars: tuple[tuple[float, float, float, float], ...]


def hoyer_picture() -> tuple[Bars, Bars]:
    """Return the pictures of a dense and of a sparse vector."""
    return _bars("dense", _DENSE), _bars("sparse", _SPARSE)


def _bars(label: str, vector: Sequence[float]) -> Bars:
    root = math.sqrt(len(vector))
    hoyer = (root - sum(vector) / math.hypot(*vector)) / (root - 1)
    heights = [max(1, HEIGHT * value) for value in vector]  # a zero is a line
    bars = tuple((i * (BAR + GAP), HEIGHT - height, BAR, height) for i, height in enumerate(heights))
    return Bars(label, hoyer, len(vector) * (BAR + GAP) - GAP, HEIGHT, bars)
