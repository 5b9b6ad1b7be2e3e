"""Calls of a linear layer that skips zeros, with cold weights and a new input each time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparseout.bench.op import Row
from sparseout.bench.timing import Clock, Spread, alternate, load, spread_columns
from sparseout.inference import kernel
from sparseout.inference.layer import SkipZerosLinear, convert
from sparseout.inference.timing import Timer
from sparseout.native.library import LIBRARY

WIDTHS = (4096,)
ALIVE = 0.435  # of the units, if zeros overlap: 8 rows with 90 % zeros then use 38 % of the units, as measured in an autoencoder
TORCH = ("linear, float32", "linear, bfloat16")
COLUMNS = (
    *("width", "batch", "zeros", "overlap", "contender", *spread_columns("milliseconds", "ms")),
    *(*spread_columns("speed"), "rounds", "load"),
)


class Case(NamedTuple):
    """Inputs of a layer: the number of rows, their fraction of zeros, and whether the rows share the active units."""

    batch: int
    zeros: float
    overlap: bool = False


CASES = (*(Case(1, zeros) for zeros in (0.0, 0.6, 0.8, 0.9, 0.95)), Case(8, 0.9), Case(8, 0.9, overlap=True))


def inputs(width: int, case: Case) -> Tensor:
    """Draw the rows of one call. Overlapping rows have their zeros outside a fixed fraction `ALIVE` of the units.

    >>> x = inputs(1000, Case(8, 0.9, overlap=True))
    >>> bool((x != 0).any(0).float().mean() < 0.45)
    True
    """
    active = 1 - case.zeros
    probability = torch.full((width,), active)
    if case.overlap:
        probability = (torch.arange(width) < round(ALIVE * width)) * (active / ALIVE)
    return torch.randn(case.batch, width) * (torch.rand(case.batch, width) < probability)


def contenders(width: int) -> dict[str, tuple[Callable[[Tensor], Any], torch.dtype]]:
    """Return the functions of one layer by name, with the dtype of their input."""
    dense = nn.Linear(width, width).eval().requires_grad_(False)
    half = nn.Linear(width, width, dtype=torch.bfloat16).eval().requires_grad_(False)
    skipping = _skipping(dense, torch.float32)
    functions: dict[str, tuple[Callable[[Tensor], Any], torch.dtype]] = {
        TORCH[0]: (lambda x: functional.linear(x, dense.weight, dense.bias), torch.float32),
        TORCH[1]: (lambda x: functional.linear(x, half.weight, half.bias), torch.bfloat16),
        "embedding_bag": (lambda x: kernel.gathered(x, skipping.weight, skipping.bias), torch.float32),
    }
    if LIBRARY is not None:
        functions["skip_zeros, float32"] = (skipping, torch.float32)
        functions["skip_zeros, bfloat16"] = (_skipping(dense, torch.bfloat16), torch.float32)
    return functions


def measure(width: int, case: Case, seconds: float) -> list[Row]:
    """Time each contender in turn for about `seconds`, on one new input a round; return a row for each.

    `speed` is the time of the faster of torch's two products in the same round, divided by that of the contender.
    """
    timer, clock, drawn = Timer(), Clock(torch.device("cpu")), [inputs(width, case)]

    def sample(function: Callable[[Tensor], Any], dtype: torch.dtype) -> Callable[[], float]:
        def take() -> float:
            x = drawn[0].to(dtype, copy=True)
            timer.fill_cache()
            start = clock.mark()
            function(x)
            return clock.seconds(start, clock.mark())

        return take

    def draw() -> float:
        drawn[0] = inputs(width, case)
        return 0.0

    with torch.no_grad():
        samples = {name: sample(*each) for name, each in contenders(width).items()}
        for take in samples.values():
            take()
        times = alternate({**samples, "": draw}, seconds)
    del times[""]
    best = [min(pair) for pair in zip(*(times[name] for name in TORCH), strict=True)]
    return [
        {
            **{"width": width, **case._asdict(), "contender": name, "rounds": len(taken), "load": load()},
            **Spread.of([1e3 * time for time in taken]).columns("milliseconds", "ms"),
            **Spread.of_ratios(best, taken).columns("speed"),
        }
        for name, taken in times.items()
    ]


def _skipping(dense: nn.Linear, dtype: torch.dtype) -> SkipZerosLinear:
    copy = nn.Linear(dense.in_features, dense.out_features).eval().requires_grad_(False)
    copy.load_state_dict(dense.state_dict())
    return convert(copy, dtype=dtype)
