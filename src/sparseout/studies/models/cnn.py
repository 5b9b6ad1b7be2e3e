"""A small convolutional classifier with one layer of noise, on a fully connected layer or on the last convolution."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

NoiseLayer = Literal["linear", "convolution"]
WIDTHS = (32, 32, 64)  # channels of the convolutions


class ConvNet(nn.Module):
    """`logits = W2 noise(relu(W1 h + b1)) + b2`, where `h` is the image after three blocks `maxpool(relu(conv(x)))`.

    With noise on the convolution, it is `W2 relu(W1 noise(h) + b1) + b2`.

    The convolutions are 3 x 3 with 32, 32 and 64 channels; each pooling halves the image. There is no normalisation. The weights
    in front of a rectifier are `N(0, 2 / fan_in)`, biases are 0, and the last layer has torch's default initialisation.

    Args:
        size: height and width of the images, at least 8.
        channels: number of channels of the images.
        classes: number of logits.
        hidden_size: number of units of the fully connected layer.
        noise: layer applied to those units, or to the 64 channels of `h`.
        noise_layer: where it is applied: to the 'linear' layer's units, or to the last 'convolution'.

    Shape:
        Input: `(batch, channels, size, size)`. Output: `(batch, classes)`.

    Source: the form of the networks of Srivastava et al. (2014), *Dropout*, appendix B.2, with noise on one layer alone.

    >>> network = ConvNet(32, channels=3, classes=10, hidden_size=512, noise=nn.Dropout(0.5))
    >>> network(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    regularised_layers = ("noise",)

    def __init__(
        self,
        size: int,
        channels: int,
        classes: int,
        hidden_size: int,
        noise: nn.Module,
        noise_layer: NoiseLayer = "linear",
    ) -> None:
        super().__init__()
        self.noise_layer = noise_layer
        self.features = nn.Sequential()
        for before, after in zip((channels, *WIDTHS[:-1]), WIDTHS, strict=True):
            self.features.extend([nn.Conv2d(before, after, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)])
        pixels = (size // 2 ** len(WIDTHS)) ** 2
        self.hidden = nn.Sequential(nn.Linear(WIDTHS[-1] * pixels, hidden_size), nn.ReLU())
        self.noise = noise
        self.linear = nn.Linear(hidden_size, classes)
        for module in (*self.features, *self.hidden):
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> Tensor:
        h = self.features(images)
        if self.noise_layer == "convolution":
            h = self.noise(h)
        h = self.hidden(h.flatten(1))
        if self.noise_layer == "linear":
            h = self.noise(h)
        logits: Tensor = self.linear(h)
        return logits
