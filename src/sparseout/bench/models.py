"""Models to benchmark: four small ones and the paper's language model, each with a batch and a loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparseout.layers import Sparseout
from sparseout.studies.autoencoder import Autoencoder
from sparseout.studies.models.awd_lstm import AWDLSTM, Output

Noise = Callable[[], nn.Module]  # returns a new layer of noise


@dataclasses.dataclass(frozen=True)
class Example:
    """A model and its training data.

    Attributes:
        build: builds the model with the given noise.
        batch: returns synthetic inputs and targets of a step.
        loss: computes the loss from the model's output and the targets.
    """

    build: Callable[[Noise], nn.Module]
    batch: Callable[[], tuple[Tensor, Tensor]]
    loss: Callable[[Any, Tensor], Tensor]


def mlp(noise: Noise) -> nn.Module:
    """784-2048-2048-10, ReLU, noise on both hidden layers."""
    hidden = [nn.Linear(784, 2048), nn.ReLU(), noise(), nn.Linear(2048, 2048), nn.ReLU(), noise()]
    return nn.Sequential(*hidden, nn.Linear(2048, 10))


class LanguageModel(nn.Module):
    """`logits = W noise(lstm2(noise(lstm1(noise(embedding)))))`: 200 units, 1000 words.

    Shape:
        Input `(batch, time)` of words, output `(batch, time, 1000)`.
    """

    def __init__(self, noise: Noise) -> None:
        super().__init__()
        self.embedding = nn.Embedding(1000, 200)
        self.lstms = nn.ModuleList(nn.LSTM(200, 200, batch_first=True) for _ in range(2))
        self.noises = nn.ModuleList(noise() for _ in range(3))
        self.decoder = nn.Linear(200, 1000)

    def forward(self, words: Tensor) -> Tensor:
        hidden = self.noises[0](self.embedding(words))
        for lstm, noise in zip(self.lstms, self.noises[1:], strict=True):
            hidden = noise(lstm(hidden)[0])
        logits: Tensor = self.decoder(hidden)
        return logits


class WideBlock(nn.Module):
    """`y = shortcut(x) + conv(noise(relu(norm(conv(relu(norm(x)))))))`, pre-activated, both convolutions 3 x 3."""

    def __init__(self, inputs: int, outputs: int, stride: int, noise: Noise) -> None:
        super().__init__()
        self.before = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU())
        self.branch = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            noise(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        )
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        y: Tensor = self.shortcut(x) + self.branch(x)
        return y


def wide_resnet(noise: Noise) -> nn.Module:
    """WRN-10-2 for 32 x 32 images of 10 classes: one block in each of three groups, noise between its convolutions.

    Source: Zagoruyko and Komodakis (2016), *Wide Residual Networks*.
    """
    blocks = [WideBlock(16, 32, 1, noise), WideBlock(32, 64, 2, noise), WideBlock(64, 128, 2, noise)]
    head = [nn.BatchNorm2d(128), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10)]
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), *blocks, *head)


def awd_lstm(noise: Noise) -> nn.Module:
    """AWD-LSTM in the paper's size for Penn Treebank, with locked noise.

    With `nn.Dropout` the model has no embedding dropout, input dropout, weight drop or locked masks. It is a plain stack of
    torch's LSTMs and Dropout layers, and a lower bound on the cost of a language model of this shape.
    """
    noises = [noise() for _ in range(3)]
    if isinstance(noises[0], nn.Dropout):
        return AWDLSTM(10_000, 400, 1150, noises)
    for layer in noises:
        if isinstance(layer, Sparseout):
            layer.shared_dims = (0,)  # time
    return AWDLSTM(10_000, 400, 1150, noises, p_embedding=0.1, p_input=0.4, p_weight=0.5)


def _pixels() -> tuple[Tensor, Tensor]:
    images = torch.rand(128, 784)
    return images, images


def _words() -> tuple[Tensor, Tensor]:
    words = torch.randint(1000, (20, 36))
    return words[:, :-1], words[:, 1:]


def _word_loss(logits: Tensor, words: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), words.flatten())


def _treebank() -> tuple[Tensor, Tensor]:
    words = torch.randint(10_000, (71, 40))
    return words[:-1], words[1:]


def _output_loss(output: Output, words: Tensor) -> Tensor:
    return _word_loss(output.logits, words)


MODELS: dict[str, Example] = {
    "autoencoder": Example(lambda noise: Autoencoder(784, 256, noise()), _pixels, F.binary_cross_entropy_with_logits),
    "mlp": Example(mlp, lambda: (torch.rand(128, 784), torch.randint(10, (128,))), F.cross_entropy),
    "lstm": Example(LanguageModel, _words, _word_loss),
    "wide_resnet": Example(wide_resnet, lambda: (torch.randn(32, 3, 32, 32), torch.randint(10, (32,))), F.cross_entropy),
    "awd_lstm": Example(awd_lstm, _treebank, _output_loss),
}
