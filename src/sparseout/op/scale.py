"""The unit `s` of `|x|` as two numbers that a kernel has anyway, so that it needs to know no unit."""

from __future__ import annotations

import math

import torch

FREED = "input must keep its memory until the backward pass, but its storage was freed or resized to 0"


def absorb(coefficient: float, eps: float, scale: float, q: float, dtype: torch.dtype) -> tuple[float, float]:
    """`coefficient c` and `s eps` with `c = s^(1 - q/2)`, each as near as `dtype` has a normal number.

    For `s |x/s|^(q/2) = c |x|^(q/2)` and `(|x|/s + eps)^((q-2)/2) = c (|x| + s eps)^((q-2)/2)`. Normal numbers make no NaN of a
    power that is 0 or infinite.

    >>> absorb(1.0, 1e-6, 4.0, 1.0, torch.float32)
    (2.0, 4e-06)
    """
    if scale == 1 and coefficient <= 1:  # all calls but those with the exact gradient above q = 2
        return coefficient, eps
    limits = torch.finfo(torch.promote_types(dtype, torch.float32))
    if scale == 1:
        return min(coefficient, limits.max), eps
    digits = (1 - q / 2) * math.log2(scale)
    c = scale ** (1 - q / 2) if abs(digits) < 1000 else 2.0 ** math.copysign(1000, digits)  # a power of Python's may raise
    c, eps = (min(max(number, limits.tiny), limits.max) for number in (c, eps * scale))
    return min(coefficient * c, limits.max), eps
