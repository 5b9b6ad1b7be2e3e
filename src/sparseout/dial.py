"""The dial of a regularizer: the one number that a `SparsityTarget` moves."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple


class Dial(NamedTuple):
    """One number of a module, with its bounds, its scale, and the direction in which activations become sparser.

    A module with an attribute `dial` can be given to `SparsityTarget`, which reads and sets the attribute that the dial names.

    Attributes:
        name: the module's attribute, for example `"q"`.
        low, high: the default bounds of the number.
        sparser: `"up"` if a larger number makes activations sparser, `"down"` if a smaller one does.
        scale: `"linear"`, or `"log"` for a positive number that matters by its order of magnitude.
        step: the change of the number, in decades on a log scale, that changes Hoyer sparseness by roughly 0.15. A controller
            adapts to the true response, so the order of magnitude is enough.
        neutral: the number during a warm-up. Default: the bound at which activations are densest. A dial without `neutral` is
            expected to have no effect near that bound, and a controller that starts there first searches for its effect.

    >>> strength = Dial("strength", 1e-6, 100.0, sparser="up", scale="log", step=0.5)
    >>> strength.position(0.01), strength.value(4.0)
    (4.0, 0.01)
    """

    name: str
    low: float
    high: float
    sparser: Literal["up", "down"]
    scale: Literal["linear", "log"] = "linear"
    step: float = 1.0
    neutral: float | None = None

    def position(self, value: float) -> float:
        """Return `value` in steps. Activations become denser as the position rises."""
        number = math.log10(value) if self.scale == "log" else value
        return (number if self.sparser == "down" else -number) / self.step

    @property
    def warmup_value(self) -> float:
        """The number during a warm-up."""
        return (self.low if self.sparser == "up" else self.high) if self.neutral is None else self.neutral

    @property
    def idles(self) -> bool:
        """Whether the number has no effect near the bound at which activations are densest."""
        return self.neutral is None

    def value(self, position: float) -> float:
        """Return the number at `position`, the inverse of `position(value)`."""
        number = (position if self.sparser == "down" else -position) * self.step
        return 10.0**number if self.scale == "log" else number
