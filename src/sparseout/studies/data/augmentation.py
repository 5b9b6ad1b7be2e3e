"""Random crops and flips of a batch of images, in a few tensor operations."""

from __future__ import annotations

import torch
from torch import Tensor


def crop_and_flip(images: Tensor, padding: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Return each image shifted by up to `padding` pixels along both axes, and mirrored with probability 1/2.

    `y[i, j] = x[r(i + a), r(j' + b)]` with `a`, `b` uniform in {-padding, ..., padding}, `r` the reflection that does not repeat
    the border, and `j'` either `j` or `width - 1 - j`. This is a random crop from the image with reflected padding.

    Args:
        images: `(batch, height, width, channels)`, of any dtype.
        padding: maximum shift, less than the height and the width.
        flip: whether to mirror.
        generator: a CPU generator; the draws do not depend on the device of the images.

    Returns:
        Images of the same shape, dtype and device.

    >>> image = torch.arange(3.0).view(1, 1, 3, 1).expand(1, 3, 3, 1)
    >>> crop_and_flip(image, 1, False, torch.Generator().manual_seed(0))[0, 0, :, 0]
    tensor([1., 0., 1.])
    """
    count, height, width, _ = images.shape
    shifts = torch.randint(-padding, padding + 1, (2, count, 1), generator=generator)
    columns = torch.arange(width).expand(count, width)
    if flip:
        mirrored = torch.randint(2, (count, 1), generator=generator, dtype=torch.bool)
        columns = torch.where(mirrored, columns.flip(1), columns)
    rows = _reflect(torch.arange(height) + shifts[0], height).to(images.device)
    columns = _reflect(columns + shifts[1], width).to(images.device)
    samples = torch.arange(count, device=images.device)
    return images[samples[:, None, None], rows[:, :, None], columns[:, None, :]]


def _reflect(positions: Tensor, size: int) -> Tensor:
    last = size - 1
    return last - (last - positions.abs()).abs()
