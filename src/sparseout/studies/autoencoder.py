"""The paper's first experiment: how sparse the representation of an autoencoder becomes as `q` changes."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sparseout.studies import data, measure
from sparseout.studies.checkpoint import TrainingState
from sparseout.studies.config import Config
from sparseout.studies.records import Record
from sparseout.studies.study import Study, Training

BATCH = 1000  # test images at a time


@dataclasses.dataclass(frozen=True)
class AutoencoderConfig(Config):
    """Train an autoencoder of one hidden ReLU layer, with noise on that layer, by Adam on binary cross entropy.

    Attributes:
        dataset: 'digits' (1,797 images of 8 x 8, bundled with scikit-learn) or 'mnist' (70,000 of 28 x 28)
        hidden: units of the hidden layer
        epochs: passes over the training images
        batch_size: images a step
        lr: Adam's learning rate
    """

    study: ClassVar[str] = "autoencoder"

    dataset: data.Name = "digits"
    hidden: int = 256
    epochs: int = 20
    batch_size: int = 128
    lr: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_at_least_1("hidden", "epochs", "batch_size")
        self._check_positive("lr")


class Autoencoder(nn.Module):
    """`logits = W2 noise(relu(W1 x + b1)) + b2`, with `nn.Linear`'s own initialisation.

    Args:
        pixels: inputs and outputs.
        hidden: units of the representation.
        noise: layer applied to the representation.

    Shape:
        Input and output: `(batch, pixels)`; the input lies in [0, 1], the output is logits.
    """

    def __init__(self, pixels: int, hidden: int, noise: nn.Module) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(pixels, hidden), nn.ReLU())
        self.noise = noise
        self.decoder = nn.Linear(hidden, pixels)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.decoder(self.noise(self.encoder(images)))
        return logits


def load(config: AutoencoderConfig, data_dir: Path | None) -> data.Images:
    """The images of `config.dataset`."""
    return data.load(config.dataset, data_dir)


def model(config: AutoencoderConfig, images: data.Images) -> Autoencoder:
    """The autoencoder of `config` for images of that size."""
    return Autoencoder(images.train.shape[1], config.hidden, config.noise_layer())


def test_batches(images: data.Images) -> tuple[Tensor, ...]:
    """The test images."""
    batches: tuple[Tensor, ...] = images.test.split(BATCH)
    return batches


def train(config: AutoencoderConfig, images: data.Images, training: Training) -> tuple[nn.Module, Record]:
    """Train one run; the results are those of its last epoch on the test images."""
    images = images.to(training.device)
    network = model(config, images).to(training.device)
    torch.manual_seed(config.seed_of("noise"))
    order = torch.Generator().manual_seed(config.seed_of("order"))
    optimizer = torch.optim.Adam(network.parameters(), lr=config.lr)
    state = TrainingState(network, optimizer, order, training.device)
    for epoch in training.epochs(state, config.epochs):
        start = time.perf_counter()
        train_loss = _train_epoch(network, images.train, optimizer, order, config.batch_size)
        results = evaluate(network, images.test)
        metrics = {"train_loss": train_loss, **{name: value for name, value in results.items() if name != "layers"}}
        training.end_epoch(state, epoch, metrics, time.perf_counter() - start)
    return network, evaluate(network, images.test)


def _train_epoch(
    model: nn.Module, images: Tensor, optimizer: torch.optim.Optimizer, order: torch.Generator, batch_size: int
) -> float:
    """One pass in a fresh order; the mean loss over its batches, noise included."""
    model.train()
    losses = []
    for batch in torch.randperm(len(images), generator=order).split(batch_size):
        target = images[batch.to(images.device)]
        loss = F.binary_cross_entropy_with_logits(model(target), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses).mean().item()


@torch.no_grad()
def evaluate(model: nn.Module, images: Tensor) -> Record:
    """Mean binary cross entropy a pixel, in nats, and the sparsity of the clean representations."""
    model.eval()
    total = 0.0
    with measure.measuring(model, ["noise"]) as layers:
        for target in images.split(BATCH):
            total += F.binary_cross_entropy_with_logits(model(target), target, reduction="sum").item()
    return {"test_loss": total / images.numel(), **measure.results(layers)}


STUDY = Study(AutoencoderConfig, load, model, train, test_batches, axes={"q": (1.0, 1.5, 2.0, 2.5, 3.0), "seed": (0, 1, 2)})
