"""Times of contenders that take turns, with weights in the cache and out of it."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
_LEAST_ROUNDS = 3


@dataclass(frozen=True)
class Times:
    """Seconds of one contender, the shortest of several rounds.

    Attributes:
        cold: after other data filled the cache, as in a model that is larger than the cache.
        warm: straight after another call, as in a small model.
    """

    cold: float
    warm: float


class Timer:
    """Times functions, alternating between them so that the load of the machine affects all of them alike."""

    def __init__(self) -> None:
        self._other_data = torch.ones(2 * _cache_bytes() // 4)

    def measure(self, contenders: Mapping[str, tuple[Callable[[T], Any], Sequence[T]]], seconds: float) -> dict[str, Times]:
        """Return the times of each contender, summed over its inputs.

        Args:
            contenders: a function of one argument and its arguments, by name. Tensors are copied before each call.
            seconds: no round starts later than this; there are at least three rounds.
        """
        cold = {name: [math.inf] * len(inputs) for name, (_, inputs) in contenders.items()}
        warm = {name: [math.inf] * len(inputs) for name, (_, inputs) in contenders.items()}
        start, rounds = time.perf_counter(), 0
        while rounds < _LEAST_ROUNDS or time.perf_counter() - start < seconds:
            for name, (function, inputs) in contenders.items():
                for k, input in enumerate(inputs):
                    self.fill_cache()
                    cold[name][k] = min(cold[name][k], _seconds(function, input))
                    warm[name][k] = min(warm[name][k], _seconds(function, input))
            rounds += 1
        return {name: Times(sum(cold[name]), sum(warm[name])) for name in contenders}

    def fill_cache(self) -> None:
        """Fill the cache with other data."""
        self._other_data.sum()


def _seconds(function: Callable[[T], Any], input: T) -> float:
    fresh: Any = input.clone() if isinstance(input, Tensor) else input
    start = time.perf_counter()
    function(fresh)
    return time.perf_counter() - start


def _cache_bytes() -> int:
    """Return the size of the last-level cache, between 16 and 128 MiB, and 32 MiB if it is unknown."""
    size = 0
    with contextlib.suppress(AttributeError, ValueError, OSError):  # Windows and macOS
        size = os.sysconf("SC_LEVEL3_CACHE_SIZE")
    return min(max(size, 2**24), 2**27) if size > 0 else 2**25
