"""The paper's image classification: how the noise in a convolutional network changes its accuracy."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor

from sparseout.checks import check_integer
from sparseout.errors import UserError
from sparseout.records.schema import Record
from sparseout.studies.data import classification
from sparseout.studies.data.augmentation import crop_and_flip
from sparseout.studies.data.classification import LabelledImages, Part
from sparseout.studies.models.cnn import WIDTHS, ConvNet, NoiseLayer
from sparseout.studies.models.wide_resnet import Placement, WideResNet, check_depth
from sparseout.training.best_epoch import Keep, check_keep
from sparseout.training.config import Config
from sparseout.training.evaluation import measuring
from sparseout.training.learner import Loss
from sparseout.training.regularizer import regularizer_layer
from sparseout.training.study import Study
from sparseout.training.supervised import Scores, SupervisedLearner, named_results

Network = Literal["wide_resnet", "cnn"]
Augmentation = Literal["standard", "none"]
# Settings without effect, by network.
UNUSED = {"wide_resnet": ("hidden_size", "noise_layer"), "cnn": ("depth", "width", "placement")}
BATCH = 500  # images per forward pass of an evaluation
DECAYS = (3, 6, 8)  # tenths of the epochs after which the learning rate is divided by 5


@dataclasses.dataclass(frozen=True)
class ImageConfig(Config):
    """Train a convolutional network with a regularizer, by SGD with Nesterov momentum 0.9 on cross entropy.

    The learning rate is divided by 5 after 30, 60 and 80 % of the epochs. The loss and the accuracy after each epoch are those of
    the validation images or, if there are none, of the test images.

    Attributes:
        p: drop probability of Sparseout and Dropout, in [0, 1]
        dataset: 'digits' (1,797 of 8 x 8, bundled with scikit-learn), 'cifar10' or 'cifar100' (60,000 of 32 x 32)
        train_images: number of images to train on, from the start of the training set; 0 for all that are not held out
        valid_images: number of images to hold out from the end of the training set, for an evaluation after each epoch
        depth: of the Wide ResNet, 6 n + 4 for n blocks per group
        width: of the Wide ResNet, factor of the 16, 32 and 64 channels of the groups
        placement: of the Wide ResNet's regularizer: 'before-conv2', as the authors', or 'after-conv1', before the normalisation
        epochs: number of passes over the training images
        batch_size: number of images per step; an incomplete last batch is skipped, as in the authors' code
        lr: initial learning rate
        weight_decay: L2 penalty on all parameters
        network: 'wide_resnet', with noise in each block, or 'cnn', three convolutions and a hidden linear layer, one with noise
        hidden_size: of the CNN, number of units of the hidden linear layer
        noise_layer: of the CNN, the layer with noise: the hidden 'linear' layer, or the last 'convolution'
        augmentation: 'standard' shifts images by up to an eighth of their size, with reflected borders, and mirrors them with
            probability 1/2 unless they are digits; 'none' does not
        keep: weights to test and save: of the 'last' epoch, or of the 'best' by validation loss
    """

    study: ClassVar[str] = "image"

    p: float = 0.3
    dataset: classification.Name = "digits"
    train_images: int = 0
    valid_images: int = 0
    depth: int = 10
    width: int = 1
    placement: Placement = "before-conv2"
    epochs: int = 200
    batch_size: int = 128
    lr: float = 0.1
    weight_decay: float = 5e-4
    network: Network = "wide_resnet"
    hidden_size: int = 512
    noise_layer: NoiseLayer = "linear"
    augmentation: Augmentation = "standard"
    keep: Keep = "last"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_at_least_1("width", "epochs", "batch_size", "hidden_size")
        self._check_positive("lr")
        for name in ("train_images", "valid_images"):
            check_integer(name, getattr(self, name), 0, 2**31 - 1)
        self._check_not_negative("weight_decay")
        check_depth(self.depth)
        if self.regularizer == "standout" and self.network == "wide_resnet" and self.placement == "after-conv1":
            raise ValueError(
                "placement must be 'before-conv2' with regularizer 'standout', got 'after-conv1': Standout rectifies its input, "
                "which the normalisation behind it expects with both signs"
            )
        check_keep(self.keep, self.valid_images)

    def unused(self) -> frozenset[str]:
        return super().unused().union(UNUSED[self.network])

    def scores(self) -> tuple[str, ...]:
        return ("test_loss", "accuracy", *(("valid_loss", "valid_accuracy") if self.valid_images else ()))

    def learning_rate(self, epoch: int) -> float:
        """Return the learning rate in `epoch`, counted from 1."""
        return self.lr * 0.2 ** sum(10 * (epoch - 1) >= tenths * self.epochs for tenths in DECAYS)


def load(config: ImageConfig, data_dir: Path | None) -> LabelledImages:
    """Load the images of `config.dataset`.

    Raises:
        UserError: the images cannot be loaded, or are fewer than a batch.
    """
    data = classification.load(config.dataset, data_dir, config.train_images, config.valid_images)
    if len(data.train) < config.batch_size:
        raise UserError(f"batch_size must be at most the {len(data.train)} training images, got {config.batch_size}")
    return data


def model(config: ImageConfig, data: LabelledImages) -> WideResNet | ConvNet:
    """Build the network of `config` for the size, channels and classes of `data`."""
    channels, classes = data.channels, data.classes
    if config.network == "cnn":
        units, dim = (config.hidden_size, -1) if config.noise_layer == "linear" else (WIDTHS[-1], 1)
        layer = regularizer_layer(config, units, dim)
        return ConvNet(data.train.images.shape[1], channels, classes, config.hidden_size, layer, config.noise_layer)
    layers = functools.partial(regularizer_layer, config, dim=1)
    return WideResNet(config.depth, config.width, channels, classes, layers, config.placement)


def test_batches(data: LabelledImages) -> tuple[Tensor, ...]:
    """Return the normalised test images, in batches."""
    return tuple(data.normalised(images) for images in data.test.images.split(BATCH))


class ImageLearner(SupervisedLearner):
    """Minimises the mean cross entropy of the training images, with SGD."""

    network: WideResNet | ConvNet
    drop_last = True

    def __init__(
        self, config: ImageConfig, data: LabelledImages, network: WideResNet | ConvNet, accelerator: Accelerator
    ) -> None:
        optimizer = torch.optim.SGD(
            network.parameters(), config.lr, momentum=0.9, nesterov=True, weight_decay=config.weight_decay
        )
        super().__init__(config, data.to(accelerator.device), network, optimizer, accelerator)

    def learning_rate(self, epoch: int) -> float:
        rate: float = self.config.learning_rate(epoch)
        return rate

    def loss(self, step: int) -> Loss:
        batch = self.batches[step].to(self.device)
        images, labels = self.data.train.images[batch], self.data.train.labels[batch]
        if self.config.augmentation == "standard":
            generator = self.generator("augmentation", self.epoch, step)
            images = crop_and_flip(images, images.shape[1] // 8, self.config.dataset != "digits", generator)
        logits = self.model(self.data.normalised(self.local_shard(images)))
        return Loss(F.cross_entropy(logits, self.local_shard(labels), reduction="sum"), len(batch))

    def clean_batches(self) -> list[Tensor]:
        images = (self.data.valid if len(self.data.valid) else self.data.train).images
        return [self.data.normalised(images[: max(BATCH, self.config.batch_size)])]

    def scores(self, part: Part, profile: bool = False) -> tuple[Scores, Record]:
        return _scores(self.network, self.data, part, profile)


def evaluate(network: WideResNet | ConvNet, data: LabelledImages) -> Record:
    """Return the mean cross entropy of the test images, in nats, the accuracy, and the sparsity of the clean activations."""
    return named_results(*_scores(network, data, data.test, profile=True))


@torch.no_grad()
def _scores(network: WideResNet | ConvNet, data: LabelledImages, part: Part, profile: bool) -> tuple[Scores, Record]:
    network.eval()
    device = next(network.parameters()).device
    loss, correct = 0.0, 0
    with measuring(network, network.regularised_layers, profile) as measures:
        for images, labels in zip(part.images.split(BATCH), part.labels.split(BATCH), strict=True):
            logits, labels = network(data.normalised(images.to(device))), labels.to(device)
            loss += F.cross_entropy(logits, labels, reduction="sum").item()
            correct += int((logits.argmax(1) == labels).sum())
    return {"loss": loss / len(part), "accuracy": correct / len(part)}, measures.results()


CNN = {
    "network": "cnn",
    "augmentation": "none",
    "keep": "best",
    "valid_images": 2000,
    "q": (1.5, 2.0, 2.5),
    "p": 0.6,
    "epochs": 24,
    "batch_size": 64,
    "lr": 0.01,
}  # what the presets of the small convolutional network share

STUDY = Study(
    ImageConfig,
    load,
    model,
    ImageLearner,
    evaluate,
    test_batches,
    items="images",
    presets={
        "quick": {"q": (1.5, 2.0, 2.5), "valid_images": 237, "epochs": 60, "batch_size": 32},
        # Few images and no augmentation, where Dropout helps: docs/studies.md.
        "cnn": {"dataset": "cifar10", "train_images": 2000, **CNN},
        "cnn-cifar100": {"dataset": "cifar100", "train_images": 5000, **CNN},
        "paper": {"q": (1.5, 2.0, 2.5), "seed": (0, 1, 2, 3, 4), "dataset": "cifar10", "depth": 28, "width": 10},
    },
)
