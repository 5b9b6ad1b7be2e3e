"""Contenders that take turns, so that a machine's drift hits all alike, and the medians of what they took."""

from __future__ import annotations

import dataclasses
import os
import random
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeVar

import torch

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Clock:
    """Time between two points of a program: wall time, and on a GPU the time between two events on its stream.

    Args:
        device: where the timed work runs.
    """

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"

    def mark(self) -> Any:
        """This point."""
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, start: Any, end: Any) -> float:
        """Seconds from one mark to a later one."""
        if not self.on_gpu:
            return float(end - start)
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3


def alternate(
    samples: Mapping[K, Callable[[], T]],
    seconds: float,
    at_least: int = 3,
    at_most: int = 1000,
    now: Callable[[], float] = time.perf_counter,
) -> dict[K, list[T]]:
    """Take a sample of every contender, round after round, each round in a new order.

    Args:
        samples: by contender, what takes one sample and returns it.
        seconds: begin no round after this time.
        at_least: rounds to take however long they are.
        at_most: rounds to end with.
        now: the time in seconds.

    Returns:
        The samples of each contender; those at one position are of one round.
    """
    order, shuffle = list(samples), random.Random(0).shuffle
    taken: dict[K, list[T]] = {contender: [] for contender in samples}
    start = now()
    for rounds in range(at_most):
        if rounds >= at_least and now() - start >= seconds:
            break
        shuffle(order)
        for contender in order:
            taken[contender].append(samples[contender]())
    return taken


def load() -> float | None:
    """Processes that ran or waited to, a mean over the last minute; alone, a benchmark comes to its number of threads."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


@dataclasses.dataclass(frozen=True)
class Spread:
    """The median and the quartiles, between which lies the middle half.

    Attributes:
        median: the middle value.
        low: first quartile.
        high: third quartile.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of two values or more; quartiles between two values are interpolated.

        >>> Spread.of([4.0, 1.0, 2.0, 3.0, 5.0])
        Spread(median=3.0, low=2.0, high=4.0)
        """
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)

    @classmethod
    def of_ratios(cls, values: Sequence[float], baseline: Sequence[float]) -> Spread:
        """The spread of the ratios within each round, in which a round that was slow for both changes nothing.

        >>> Spread.of_ratios([1.0, 20.0, 1.0], [2.0, 40.0, 2.0])
        Spread(median=0.5, low=0.5, high=0.5)
        """
        return cls.of([value / base for value, base in zip(values, baseline, strict=True)])

    def columns(self, name: str, short: str | None = None) -> dict[str, float]:
        """The three under a table's column names: `name`, and `short` (by default `name` too) with the quartiles."""
        short = short or name
        return {name: self.median, f"{short}_iqr_low": self.low, f"{short}_iqr_high": self.high}
