"""Random numbers by the project's index rule: the same on every device, in every dtype, and recomputed from their seed."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sparseout.op import custom_ops, reference


def uniform(like: Tensor, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
    """`u_i = (word(i) + 1/2) / 2^32` in (0, 1), with one seed for the call and the row-major index `i`.

    Args:
        like: the device and the dtype of the result, float32 or float64.
        shape: the shape of the result.
        generator: source of the seed; None is the default generator of the device.
    """
    seed = custom_ops.draw(like, generator)
    words = reference.random_words(math.prod(shape), seed, like.device)
    return ((words.double() + 0.5) / 2**32).clamp(max=1 - 2**-24).to(like.dtype).reshape(shape)
