"""Folds the scale `s` into the coefficient and `eps`, so the kernels need no extra argument."""

from __future__ import annotations

import math

import torch

from sparseout.op.settings import Settings

_LIMITS_32, _LIMITS_64 = ((limits.tiny, limits.max) for limits in map(torch.finfo, (torch.float32, torch.float64)))


def absorb(coefficient: float, eps: float, settings: Settings, dtype: torch.dtype) -> tuple[float, float]:
    """Return `coefficient c` and `s eps` with `c = s^(1 - q/2)`, each clamped to the normal numbers of the arithmetic of `dtype`.

    `s |x/s|^(q/2) = c |x|^(q/2)` and `(|x|/s + eps)^((q-2)/2) = c (|x| + s eps)^((q-2)/2)`. A normal number times a power that is
    0 or infinite is not NaN.

    >>> absorb(1.0, 1e-6, Settings(p=0.5, q=1.0, scale=4.0), torch.float32)
    (2.0, 4e-06)
    """
    if settings.scale == 1 and coefficient <= 1:  # all calls without a scale, but for the exact gradient above q = 2
        return coefficient, eps
    scale, q = float(settings.scale), settings.q
    smallest, largest = _LIMITS_64 if dtype == torch.float64 else _LIMITS_32
    if scale == 1:
        return min(coefficient, largest), eps
    digits = (1 - q / 2) * math.log2(scale)
    c = scale ** (1 - q / 2) if abs(digits) < 1000 else 2.0 ** math.copysign(1000, digits)  # a power of Python's may raise
    c, eps = min(max(c, smallest), largest), min(max(eps * scale, smallest), largest)
    return min(coefficient * c, largest), eps
