"""The paper's first experiment: how sparse the representation of an autoencoder becomes as `q` changes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from sparseout.records.schema import Record
from sparseout.studies.data import mnist
from sparseout.training.config import Config
from sparseout.training.evaluation import measuring
from sparseout.training.learner import Learner, Loss
from sparseout.training.study import Study

BATCH = 1000  # test images at a time


@dataclasses.dataclass(frozen=True)
class AutoencoderConfig(Config):
    """Train an autoencoder of one hidden ReLU layer, with noise on that layer, by Adam on binary cross entropy.

    Attributes:
        dataset: 'digits' (1,797 images of 8 x 8, bundled with scikit-learn) or 'mnist' (70,000 of 28 x 28)
        hidden_size: units of the hidden layer
        epochs: passes over the training images
        batch_size: images a step
        lr: Adam's learning rate
    """

    study: ClassVar[str] = "autoencoder"

    dataset: mnist.Name = "digits"
    hidden_size: int = 256
    epochs: int = 20
    batch_size: int = 128
    lr: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_at_least_1("hidden_size", "epochs", "batch_size")
        self._check_positive("lr")


class Autoencoder(nn.Module):
    """`logits = W2 noise(relu(W1 x + b1)) + b2`, with `nn.Linear`'s own initialisation.

    Args:
        pixels: inputs and outputs.
        hidden_size: units of the representation.
        noise: layer applied to the representation.

    Shape:
        Input and output: `(batch, pixels)`; the input lies in [0, 1], the output is logits.
    """

    def __init__(self, pixels: int, hidden_size: int, noise: nn.Module) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(pixels, hidden_size), nn.ReLU())
        self.noise = noise
        self.decoder = nn.Linear(hidden_size, pixels)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.decoder(self.noise(self.encoder(images)))
        return logits


class AutoencoderLearner(Learner):
    """Adam on the mean binary cross entropy of a pixel."""

    network: Autoencoder

    def __init__(self, config: AutoencoderConfig, images: mnist.Images, network: Autoencoder, accelerator: Accelerator) -> None:
        super().__init__(config, network, torch.optim.Adam(network.parameters(), lr=config.lr), accelerator)
        self.images = images.to(self.device)

    def start_epoch(self, epoch: int) -> int:
        order = torch.randperm(len(self.images.train), generator=self.generator("order", epoch))
        self.batches = order.to(self.device).split(self.config.batch_size)
        return len(self.batches)

    def loss(self, step: int) -> Loss:
        batch = self.batches[step]
        target = self.images.train[self.local_shard(batch)]
        total = F.binary_cross_entropy_with_logits(self.model(target), target, reduction="sum")
        return Loss(total, len(batch) * target.shape[1])

    def evaluate(self) -> Record:
        return evaluate(self.network, self.images)

    def results(self) -> Record:
        return evaluate(self.network, self.images, profile=True)


def load(config: AutoencoderConfig, data_dir: Path | None) -> mnist.Images:
    """The images of `config.dataset`."""
    return mnist.load(config.dataset, data_dir)


def model(config: AutoencoderConfig, images: mnist.Images) -> Autoencoder:
    """The autoencoder of `config` for images of that size."""
    return Autoencoder(images.train.shape[1], config.hidden_size, config.noise_layer())


def test_batches(images: mnist.Images) -> tuple[Tensor, ...]:
    """The test images."""
    batches: tuple[Tensor, ...] = images.test.split(BATCH)
    return batches


@torch.no_grad()
def evaluate(network: nn.Module, images: mnist.Images, profile: bool = True) -> Record:
    """Mean binary cross entropy a pixel of the test images, in nats, and the sparsity of their clean representations."""
    network.eval()
    total = 0.0
    with measuring(network, profile) as measures:
        for target in test_batches(images):
            total += F.binary_cross_entropy_with_logits(network(target), target, reduction="sum").item()
    return {"test_loss": total / images.test.numel(), **measures.results()}


STUDY = Study(
    AutoencoderConfig,
    load,
    model,
    AutoencoderLearner,
    evaluate,
    test_batches,
    items="images",
    presets={"quick": {"q": (1.0, 1.5, 2.0, 2.5, 3.0), "seed": (0, 1, 2)}},
)
