"""The autoencoder of `cash_in.py`: 784-2048-784 on MNIST, with one hidden ReLU layer that is made sparse."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import sparseout
from sparseout import regularizers
from sparseout.inference import drop_dead
from sparseout.studies.data import mnist

BATCH, LEARNING_RATE, EVERY = 128, 1e-3, 4
TIMED = 16  # test images whose forward passes are timed, each a new input


@dataclasses.dataclass(frozen=True)
class Autoencoder:
    """Trains the autoencoder with one method to one fraction of zeros. It also has its test score and the call to time.

    Attributes:
        dataset: "mnist" or "digits".
        data_dir: folder with MNIST. Default: the Hugging Face hub.
        hidden_size: units of the hidden layer.
        epochs: passes over the training images.
    """

    dataset: str = "mnist"
    data_dir: Path | None = None
    hidden_size: int = 2048
    epochs: int = 1

    name = "autoencoder"
    methods = ("sparseout", "l1", "hoyer_square", "k_winners")

    def build(self, method: str, seed: int) -> nn.Module:
        """Return the network with the layer of `method`, not trained."""
        torch.manual_seed(seed)
        return build(method, self._images().train.shape[1], self.hidden_size)

    def train(self, network: nn.Module, method: str, zeros: float, seed: int) -> None:
        """Train the network."""
        torch.manual_seed(seed)
        images = self._images().train
        optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
        target = None if method == "none" else sparseout.SparsityTarget(network, zeros, measure="zeros", every=EVERY)
        has_penalty = method in ("l1", "hoyer_square")
        for _ in range(self.epochs):
            for batch in torch.randperm(len(images)).split(BATCH):
                loss = loss_of(network, images[batch])
                optimizer.zero_grad()
                (loss + sparseout.penalty(network) if has_penalty else loss).backward()
                optimizer.step()
                if target:
                    target.step()
        if target:
            target.stop()

    @torch.no_grad()
    def evaluate(self, network: nn.Module) -> dict[str, float]:
        """Return the test loss in nats."""
        batches = self._images().test.split(1000)
        return {"test_loss": sum(loss_of(network, batch).item() for batch in batches) / len(batches)}

    def hidden(self, network: nn.Module) -> list[nn.Module]:
        """Return the layers that read the zeros."""
        return [network[-1]]

    def samples(self) -> list[Tensor]:
        """Return the batches on which the zeros are counted."""
        return list(self._images().test.split(1000))

    def drop(self, network: nn.Module) -> Any:
        """Return the report of `drop_dead` on training images."""
        return drop_dead(network, self._images().train[:20_000].split(1000))

    def timed(self) -> list[Tensor]:
        """Return the inputs of the timed calls."""
        return list(self._images().test[:TIMED].split(1))

    def call(self, network: nn.Module, input: Tensor) -> Tensor:
        """Run the network on one timed input."""
        output: Tensor = network(input)
        return output

    def _images(self) -> mnist.Images:
        return mnist.load(self.dataset, self.data_dir)


def build(method: str, pixels: int, hidden_size: int) -> nn.Sequential:
    """Build `decoder(layer(relu(encoder(x))))` with the layer of `method`."""
    encoder, decoder = nn.Linear(pixels, hidden_size), nn.Linear(hidden_size, pixels)
    layers = {
        "none": nn.Identity,
        "sparseout": lambda: sparseout.Sparseout(0.5, 1.5),
        "l1": lambda: regularizers.L1(1e-6, reader=decoder),
        "hoyer_square": lambda: regularizers.HoyerSquare(1e-6),
        "k_winners": lambda: regularizers.KWinners(1.0),
    }
    return nn.Sequential(encoder, nn.ReLU(), layers[method](), decoder)


def loss_of(network: nn.Module, images: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(network(images), images)
