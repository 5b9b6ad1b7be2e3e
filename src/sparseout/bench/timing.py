"""Timing in turns, so that a drift of the machine affects all contenders alike, and medians of the times."""

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
    """The time between two points of a program: wall time on a CPU, the time between two events of the stream on a GPU.

    Args:
        device: device of the timed work.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.on_gpu = device, device.type == "cuda"

    def mark(self) -> Any:
        """Mark the current point."""
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, start: Any, end: Any) -> float:
        """Return the seconds from one mark to a later one."""
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
    """Take a sample of every contender in each round, in a new random order.

    Args:
        samples: function that takes one sample, by contender.
        seconds: time after which no round starts.
        at_least: minimum number of rounds, however long they take.
        at_most: maximum number of rounds.
        now: returns the time in seconds.

    Returns:
        The samples of each contender, in the order of the rounds.
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
    """Return the load average of the last minute; on an idle machine it approaches the benchmark's number of threads."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


@dataclasses.dataclass(frozen=True)
class Spread:
    """The median and the quartiles.

    Attributes:
        median: median.
        low: first quartile.
        high: third quartile.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of two or more values, with interpolated quartiles.

        >>> Spread.of([4.0, 1.0, 2.0, 3.0, 5.0])
        Spread(median=3.0, low=2.0, high=4.0)
        """
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)

    @classmethod
    def of_ratios(cls, values: Sequence[float], baseline: Sequence[float]) -> Spread:
        """Return the spread of the ratios within each round, which cancel a slowdown of the whole round.

        >>> Spread.of_ratios([1.0, 20.0, 1.0], [2.0, 40.0, 2.0])
        Spread(median=0.5, low=0.5, high=0.5)
        """
        return cls.of([value / base for value, base in zip(values, baseline, strict=True)])

    def columns(self, name: str, short: str | None = None) -> dict[str, float]:
        """Return the values of `spread_columns(name, short)` for one run, whose median is its lowest and its highest."""
        values = (self.median, self.low, self.high, self.median, self.median)
        return dict(zip(spread_columns(name, short), values, strict=True))


def spread_columns(name: str, short: str | None = None) -> tuple[str, ...]:
    """Return the columns of a measured number: its median, its quartiles, and the lowest and highest median of whole runs.

    The first has the name itself, the others the prefix `short` (default: `name`).

    >>> spread_columns("milliseconds", "ms")
    ('milliseconds', 'ms_iqr_low', 'ms_iqr_high', 'ms_run_low', 'ms_run_high')
    """
    short = short or name
    return name, f"{short}_iqr_low", f"{short}_iqr_high", f"{short}_run_low", f"{short}_run_high"
