"""Wide residual networks with a layer of noise in each block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparseout.checks import check_choice

Placement = Literal["before-conv2", "after-conv1"]
MAX_DEPTH = 1000
PLACEMENTS = ("before-conv2", "after-conv1")


class WideResNet(nn.Module):
    """`logits = W mean(relu(norm(block(... block(conv(x))))))`: WRN-depth-width, three groups of (depth - 4) / 6 blocks.

    The groups have 16, 32 and 64 times `width` channels; the second and the third halve the image. Convolutions have no biases.
    The initialisation is the authors': convolutions `N(0, 2 / fan_in)`, scales of the normalisations uniform in [0, 1], biases 0.
    The weights are in `torch.channels_last` memory; the network is fastest with images in the same format.

    Args:
        depth: 6 n + 4 for n blocks per group: 10, 16, 22, 28, 40.
        width: factor of the number of channels.
        channels: number of channels of the images.
        classes: number of logits.
        noise: returns a new layer for the activations of one block, given their number of channels.
        placement: `"before-conv2"`, after the second rectifier, as Dropout in the authors' network; or `"after-conv1"`,
            before the second normalisation.

    Shape:
        Input: `(batch, channels, height, width)`, at least 1 x 1. Output: `(batch, classes)`.

    Raises:
        ValueError: the depth is not 6 n + 4, or the placement is unknown.

    Source: Zagoruyko and Komodakis (2016), *Wide Residual Networks*, arXiv:1605.07146.

    >>> network = WideResNet(10, 1, channels=3, classes=10, noise=lambda channels: nn.Dropout(0.3))
    >>> network(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    >>> [name for name, module in network.named_modules() if isinstance(module, nn.Dropout)]
    ['groups.0.0.noise', 'groups.1.0.noise', 'groups.2.0.noise']
    """

    def __init__(
        self,
        depth: int,
        width: int,
        channels: int,
        classes: int,
        noise: Callable[[int], nn.Module],
        placement: Placement = "before-conv2",
    ) -> None:
        super().__init__()
        check_depth(depth)
        check_choice("placement", placement, PLACEMENTS)
        widths = [16, 16 * width, 32 * width, 64 * width]
        self.blocks = (depth - 4) // 6  # per group
        self.conv = _convolution(channels, widths[0])
        self.groups = nn.Sequential()
        for before, after, stride in zip(widths[:-1], widths[1:], (1, 2, 2), strict=True):
            first = Block(before, after, stride, noise(after), placement)
            others = [Block(after, after, 1, noise(after), placement) for _ in range(self.blocks - 1)]
            self.groups.append(nn.Sequential(first, *others))
        self.norm = nn.BatchNorm2d(widths[-1])
        self.linear = nn.Linear(widths[-1], classes)
        self._initialise()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Tensor:
        features = self.groups(self.conv(images))
        logits: Tensor = self.linear(F.relu(self.norm(features), inplace=True).mean((-2, -1)))
        return logits

    @property
    def regularised_layers(self) -> list[str]:
        """Names of the layers of noise."""
        return [f"groups.{group}.{block}.noise" for group in range(len(self.groups)) for block in range(self.blocks)]

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight)
        nn.init.zeros_(self.linear.bias)


class Block(nn.Module):
    """`y = shortcut + conv2(noise(relu(norm2(conv1(o)))))` with `o = relu(norm1(x))`; with the placement
    "after-conv1", `relu(norm2(noise(conv1(o))))` is the input of `conv2`.

    The shortcut is `x`, or a 1 x 1 convolution of `o` if the number of channels changes.
    """

    def __init__(self, before: int, after: int, stride: int, noise: nn.Module, placement: Placement) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(before)
        self.conv1 = _convolution(before, after, stride)
        self.norm2 = nn.BatchNorm2d(after)
        self.noise = noise
        self.conv2 = _convolution(after, after)
        self.shortcut = None if before == after else nn.Conv2d(before, after, 1, stride, bias=False)
        self.placement = placement

    def forward(self, x: Tensor) -> Tensor:
        o = F.relu(self.norm1(x), inplace=True)
        h = self.conv1(o)
        if self.placement == "after-conv1":
            h = F.relu(self.norm2(self.noise(h)), inplace=True)
        else:
            h = self.noise(F.relu(self.norm2(h), inplace=True))
        shortcut = x if self.shortcut is None else self.shortcut(o)
        y: Tensor = self.conv2(h) + shortcut
        return y


def check_depth(depth: int) -> None:
    """Raise `ValueError` unless `depth` is 6 n + 4, in [10, 1000]."""
    if not 10 <= depth <= MAX_DEPTH or depth % 6 != 4:
        raise ValueError(f"depth must be 6 n + 4 for n blocks per group (10, 16, 22, 28, ..., {MAX_DEPTH}), got {depth!r}")


def _convolution(before: int, after: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
