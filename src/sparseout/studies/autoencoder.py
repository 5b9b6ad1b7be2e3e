"""The paper's first experiment: how the sparsity of an autoencoder's representation depends on `q`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from sparseout.checks import check_integer
from sparseout.records.schema import Record
from sparseout.studies.data import mnist
from sparseout.training.best_epoch import Keep, check_keep
from sparseout.training.config import Config
from sparseout.training.evaluation import measuring
from sparseout.training.learner import Loss
from sparseout.training.regularizer import regularizer_layer
from sparseout.training.study import Study
from sparseout.training.supervised import Scores, SupervisedLearner, named_results

BATCH = 1000  # images per forward pass of an evaluation


@dataclasses.dataclass(frozen=True)
class AutoencoderConfig(Config):
    """Train an autoencoder with one hidden ReLU layer and a regularizer on that layer, by Adam on binary cross entropy.

    The loss after each epoch is that of the validation images or, if there are none, of the test images.

    Attributes:
        dataset: 'digits' (1,797 images of 8 x 8, bundled with scikit-learn) or 'mnist' (70,000 of 28 x 28)
        hidden_size: number of units of the hidden layer
        epochs: number of passes over the training images
        batch_size: number of images per step
        lr: learning rate of Adam
        valid_images: number of images to hold out from the end of the training set, for an evaluation after each epoch
        keep: weights to test and save: of the 'last' epoch, or of the 'best' by validation loss
    """

    study: ClassVar[str] = "autoencoder"

    dataset: mnist.Name = "digits"
    hidden_size: int = 256
    epochs: int = 20
    batch_size: int = 128
    lr: float = 1e-3
    valid_images: int = 0
    keep: Keep = "last"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_at_least_1("hidden_size", "epochs", "batch_size")
        self._check_positive("lr")
        check_integer("valid_images", self.valid_images, 0, 2**31 - 1)
        check_keep(self.keep, self.valid_images)

    def scores(self) -> tuple[str, ...]:
        return ("test_loss", *(("valid_loss",) if self.valid_images else ()))


class Autoencoder(nn.Module):
    """`logits = W2 noise(relu(W1 x + b1)) + b2`, with the default initialisation of `nn.Linear`.

    Args:
        pixels: number of inputs and outputs.
        hidden_size: number of units of the representation.
        noise: layer applied to the representation.

    Shape:
        Input and output: `(batch, pixels)`; the input lies in [0, 1], the output holds logits.
    """

    regularised_layers = ("noise",)

    def __init__(self, pixels: int, hidden_size: int, noise: nn.Module) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(pixels, hidden_size), nn.ReLU())
        self.noise = noise
        self.decoder = nn.Linear(hidden_size, pixels)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.decoder(self.noise(self.encoder(images)))
        return logits


class AutoencoderLearner(SupervisedLearner):
    """Minimises the mean binary cross entropy per pixel with Adam."""

    network: Autoencoder

    def __init__(self, config: AutoencoderConfig, images: mnist.Images, network: Autoencoder, accelerator: Accelerator) -> None:
        images, optimizer = images.to(accelerator.device), torch.optim.Adam(network.parameters(), lr=config.lr)
        super().__init__(config, images, network, optimizer, accelerator)

    def loss(self, step: int) -> Loss:
        batch = self.batches[step].to(self.device)
        target = self.data.train[self.local_shard(batch)]
        total = F.binary_cross_entropy_with_logits(self.model(target), target, reduction="sum")
        return Loss(total, len(batch) * target.shape[1])

    def clean_batches(self) -> list[Tensor]:
        # The input of a Sparseout layer is clean in training too.
        return [] if self.config.regularizer == "sparseout" else [self.data.train[:BATCH]]

    def scores(self, part: Tensor, profile: bool = False) -> tuple[Scores, Record]:
        return _scores(self.network, part, profile)


def load(config: AutoencoderConfig, data_dir: Path | None) -> mnist.Images:
    """Load the images of `config.dataset`."""
    return mnist.load(config.dataset, data_dir, config.valid_images)


def model(config: AutoencoderConfig, images: mnist.Images) -> Autoencoder:
    """Build the autoencoder of `config` for the size of `images`."""
    return Autoencoder(images.train.shape[1], config.hidden_size, regularizer_layer(config, config.hidden_size))


def test_batches(images: mnist.Images) -> tuple[Tensor, ...]:
    """Return the test images, in batches."""
    batches: tuple[Tensor, ...] = images.test.split(BATCH)
    return batches


def evaluate(network: Autoencoder, images: mnist.Images) -> Record:
    """Return the mean binary cross entropy per pixel of the test images, in nats, and the sparsity of their representations."""
    return named_results(*_scores(network, images.test, profile=True))


@torch.no_grad()
def _scores(network: Autoencoder, images: Tensor, profile: bool) -> tuple[Scores, Record]:
    network.eval()
    total = 0.0
    with measuring(network, network.regularised_layers, profile) as measures:
        for target in images.split(BATCH):
            total += F.binary_cross_entropy_with_logits(network(target), target, reduction="sum").item()
    return {"loss": total / images.numel()}, measures.results()


STUDY = Study(
    AutoencoderConfig,
    load,
    model,
    AutoencoderLearner,
    evaluate,
    test_batches,
    items="pixels",
    presets={"quick": {"q": (1.0, 1.5, 2.0, 2.5, 3.0), "seed": (0, 1, 2)}},
)
