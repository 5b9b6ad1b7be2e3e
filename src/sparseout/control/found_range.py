"""The result of `find_q`: sparsity and loss against `q`, and the range that a target can reach."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sparseout.extras import needed_for
from sparseout.metrics import TOLERANCE
from sparseout.notebook import page
from sparseout.records.tables import number, plain_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SETTLED = 0.01  # largest change of the sparsity of a settled point in the second half of its steps
RETURNED = 0.5  # fraction of the way back from the sparsest point below which the text warns that sparsity stays
LEARNING = 0.1  # fraction by which the loss may fall at the first point before the text warns of it
BLUE, RED, GREY = "#2183b3", "#d1495b", "#808080"

Range = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Point:
    """The end of the training at one value of the number.

    Attributes:
        value: the number, `q` for Sparseout.
        p: the `p` of the first layer if it moves, else None.
        loss: mean loss of the clean batches, in evaluation mode.
        loss_before: the same after half of the steps.
        sparsity: the clean sparsity of each layer that ran.
        moved: its change in the second half of the steps.
    """

    value: float
    p: float | None
    loss: float
    loss_before: float
    sparsity: Mapping[str, float]
    moved: Mapping[str, float]

    @property
    def mean(self) -> float:
        """The mean sparsity of the layers."""
        return _mean(self.sparsity)

    @property
    def settled(self) -> bool:
        """Whether the mean sparsity changed by at most 0.01 in the second half of the steps."""
        return abs(_mean(self.moved)) <= SETTLED

    @property
    def is_finite(self) -> bool:
        """Whether the loss and all sparsities are finite numbers."""
        return all(map(math.isfinite, (self.loss, *self.sparsity.values(), *self.moved.values())))

    @property
    def state(self) -> str:
        """`"settled"`, `"still rising"`, `"still falling"`, or `"not finite"`."""
        if not self.is_finite:
            return "not finite"
        return "settled" if self.settled else "still rising" if _mean(self.moved) > 0 else "still falling"


@dataclasses.dataclass(frozen=True, repr=False)
class FoundRange:
    """Sparsity and loss against `q`, or against the number of other layers. Its text is a table; `plot()` draws it.

    The range has the sparsities that were seen, at points that count. A point counts if its sparsity had settled, or was still
    moving away from that of the first point: it was there, and training on would have taken it further. On each side, the
    points end where the sparsity turns back by more than 0.02, because a controller would follow it there into a bound.

    Attributes:
        name: the number that moved, `"q"` for Sparseout.
        measure: name of the measure.
        points: the points, from the sparsest end to the densest.
        first: index of the point at which training began, where the layers act least.
        steps: number of steps at each point.
        returned: the end of the training at the densest value that follows the one at the sparsest; None if the sparsest one is
            the first or is not finite.
    """

    name: str
    measure: str
    points: tuple[Point, ...]
    first: int
    steps: int
    returned: Point | None = None

    @property
    def range(self) -> Range | None:
        """The lowest and the highest mean sparsity that was seen; None if no point counts."""
        counted = [self.points[i].mean for i in self._counted(None)]
        return (min(counted), max(counted)) if counted else None

    @property
    def ranges(self) -> dict[str, Range | None]:
        """The same for each layer, while all layers have the same number."""
        found = {}
        for layer in self.points[self.first].sparsity:
            counted = [self.points[i].sparsity[layer] for i in self._counted(layer)]
            found[layer] = (min(counted), max(counted)) if counted else None
        return found

    @property
    def bounds(self) -> Range | None:
        """The lowest and the highest number of the points in the range: `bounds` for `SparsityTarget`; None without a range."""
        values = [self.points[i].value for i in self._counted(None)]
        return (min(values), max(values)) if values and min(values) < max(values) else None

    @property
    def comes_back(self) -> bool:
        """Whether the sparsity went at least half of the way back to that of the first point after the sparsest one.

        If not, a target that overshoots may stay above its sparsity, as in a network that fits its data and hardly learns.
        """
        if self.returned is None:
            return True
        sparsest, start = self.points[0].mean, self.points[self.first].mean
        return sparsest - self.returned.mean >= RETURNED * (sparsest - start)

    def _counted(self, layer: str | None) -> list[int]:
        """Return the indices of the points that count, for the mean or for one layer."""
        found = []
        start = self.points[self.first]
        if start.is_finite and abs(_of(start.moved, layer)) <= SETTLED:
            found.append(self.first)
        for sign, side in ((1, range(self.first - 1, -1, -1)), (-1, range(self.first + 1, len(self.points)))):
            farthest = sign * _of(start.sparsity, layer)
            for i in side:
                point = self.points[i]
                distance = sign * _of(point.sparsity, layer)
                if not point.is_finite or not distance >= farthest - TOLERANCE:
                    break
                farthest = max(farthest, distance)
                if sign * _of(point.moved, layer) >= -SETTLED:
                    found.append(i)
        return sorted(found)

    def __repr__(self) -> str:
        return "\n".join([self._head, plain_table(*self._table, left=0), *self._remarks])

    def _repr_html_(self) -> str:
        return page([self._head], [self._table[0], *self._table[1]], self._remarks, left=0)

    @property
    def _head(self) -> str:
        counted = self._counted(None)
        if self.range is None:
            return f"no {self.measure} range: the sparsity settled at no {self.name}; use more steps, or train the model longer"
        ends = (min(counted, key=lambda i: self.points[i].mean), max(counted, key=lambda i: self.points[i].mean))
        low, high = (f"{self.points[i].mean:.3f} ({self._text(self.points[i])})" for i in ends)
        layers = len(self.points[self.first].sparsity)
        of = f"mean {self.measure} of {layers} layers" if layers > 1 else self.measure
        return f"{of} from {low} to {high}, seen in {self.steps} steps at each {self.name}"

    @property
    def _table(self) -> tuple[list[str], list[list[str]]]:
        counted = self._counted(None)
        has_p = any(point.p is not None for point in self.points)
        rows = [
            [
                *(number(point.value), *([number(point.p)] if has_p else []), f"{point.mean:.3f}", f"{point.loss:.4g}"),
                *(point.state, "yes" if i in counted else "no"),
            ]
            for i, point in enumerate(self.points)
        ]
        return [self.name, *(["p"] if has_p else []), self.measure, "loss", "sparsity", "in the range"], rows

    @property
    def _remarks(self) -> list[str]:
        remarks = []
        layers = self.ranges
        if len(layers) > 1:
            texts = (
                f"{name} {'none' if found is None else f'{found[0]:.3f} to {found[1]:.3f}'}" for name, found in layers.items()
            )
            remarks.append(f"each layer, with the same {self.name} in all: {', '.join(texts)}")
        start = self.points[self.first]
        fall = 1 - start.loss / start.loss_before if start.loss_before > 0 else 0.0
        if not start.settled or fall > LEARNING:
            remarks.append(
                f"the model was still learning where it began, at {self._text(start)}: in half of the steps its loss went "
                f"from {start.loss_before:.4g} to {start.loss:.4g}, its sparsity by {_mean(start.moved):+.3f}; so may the range"
            )
        if self.returned and not self.comes_back:
            way_back = f"after {self._text(self.points[0])}, {self.steps} steps at {self._text(self.returned)}"
            remarks.append(
                f"the sparsity comes back slowly: {way_back} leave {self.returned.mean:.3f}, so a target that overshoots may "
                "stay too sparse"
                if self.returned.is_finite
                else f"the model does not come back: {way_back} give a loss or a sparsity that is not finite"
            )
        return remarks

    def _text(self, point: Point) -> str:
        return f"{self.name} = {point.value:.3g}" + (f", p = {point.p:.3g}" if point.p is not None else "")

    def plot(self) -> Figure:
        """Return a figure of sparsity and loss against the number. Hollow points are not in the range, which is shaded."""
        with needed_for("plot()", "report"):
            from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 4), layout="constrained")
        left, right = figure.subplots(1, 2)
        values, counted = [point.value for point in self.points], self._counted(None)
        layers = list(self.points[self.first].sparsity)
        for layer in layers if len(layers) > 1 else []:
            left.plot(values, [_of(point.sparsity, layer) for point in self.points], color=GREY, linewidth=1, alpha=0.6)
        for axes, heights, colour in (
            (left, [point.mean for point in self.points], BLUE),
            (right, [point.loss for point in self.points], RED),
        ):
            _draw(axes, values, heights, counted, colour)
            axes.set_xlabel(self.name)
            if self.points[self.first].value > 0 and min(values) > 0 and max(values) > 100 * min(values):
                axes.set_xscale("log")
        if self.range:
            left.axhspan(*self.range, color=BLUE, alpha=0.12, linewidth=0)
        left.set_title(f"{'mean ' if len(layers) > 1 else ''}{self.measure}".capitalize(), loc="left", weight="bold")
        right.set_title("Loss, without noise", loc="left", weight="bold")
        return figure


def _draw(axes: Any, values: list[float], heights: list[float], counted: list[int], colour: str) -> None:
    """Draw a line, with a filled dot for each point that counts and a hollow one for the others."""
    axes.plot(values, heights, color=colour, linewidth=2)
    for i, (x, y) in enumerate(zip(values, heights, strict=True)):
        axes.plot([x], [y], "o", color=colour, markerfacecolor=colour if i in counted else "white")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)


def _mean(values: Mapping[str, float]) -> float:
    return sum(values.values()) / len(values)


def _of(values: Mapping[str, float], layer: str | None) -> float:
    """Return the value of a layer, or the mean for None; NaN if the layer did not run."""
    return _mean(values) if layer is None else values.get(layer, math.nan)
