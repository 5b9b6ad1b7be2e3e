"""Text as sequences: of random length for training, and side by side for evaluation."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

MIN_LENGTH = 5  # words of a sequence, as in the authors' code
CONTEXT = 64  # words that each column except the first reads before its own words
PIECE = 1280  # words per forward pass of an evaluation
IGNORED = -100  # the target that cross_entropy leaves out


def lengths(words: int, bptt: int, generator: torch.Generator) -> list[int]:
    """Draw sequence lengths that add up to `words`: `N(bptt, 5)` or, with probability 1/20, `N(bptt / 2, 5)`, at least 5.

    >>> lengths(300, 70, torch.Generator().manual_seed(0))
    [71, 71, 71, 72, 15]
    """
    drawn = []
    while words > 0:
        mean = bptt if torch.rand((), generator=generator) < 0.95 else bptt / 2
        length = max(MIN_LENGTH, round(mean + 5 * torch.randn((), generator=generator).item()))
        if words - length < MIN_LENGTH:
            length = words
        drawn.append(length)
        words -= length
    return drawn


def pairs(words: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """Return inputs and targets `(time, columns)`. Each word but the first is a target once; the other targets are `IGNORED`.

    Each column except the first starts `CONTEXT` words before its own words. A short text has fewer columns.

    >>> inputs, targets = pairs(torch.arange(5), 1)
    >>> inputs.flatten().tolist(), targets.flatten().tolist()
    ([0, 1, 2, 3], [1, 2, 3, 4])
    """
    predicted = len(words) - 1
    columns = max(1, min(columns, predicted // (4 * CONTEXT)))
    context = CONTEXT if columns > 1 else 0
    time = torch.arange(-(-(predicted + (columns - 1) * context) // columns), device=words.device)[:, None]
    starts = torch.arange(columns, device=words.device) * (len(time) - context)
    position = starts + time
    counts = (position < predicted) & ((time >= context) | (starts == 0))
    position = position.clamp(max=predicted - 1)
    return words[position], words[position + 1].where(counts, IGNORED)


def pieces(words: Tensor, columns: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the inputs and targets of `pairs`, about `PIECE` words at a time."""
    inputs, targets = pairs(words, columns)
    rows = PIECE // inputs.shape[1]
    return zip(inputs.split(rows), targets.split(rows), strict=True)
