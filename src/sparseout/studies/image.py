"""The paper's image classification: how the noise in the blocks of a wide residual network changes its accuracy."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar

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
from sparseout.studies.models.wide_resnet import Placement, WideResNet, check_depth
from sparseout.training.config import Config
from sparseout.training.evaluation import measuring
from sparseout.training.learner import Learner, Loss
from sparseout.training.study import Study

BATCH = 500  # images per forward pass of an evaluation
DECAYS = (3, 6, 8)  # tenths of the epochs after which the learning rate is divided by 5


@dataclasses.dataclass(frozen=True)
class ImageConfig(Config):
    """Train a wide residual network with noise in its blocks, by SGD with Nesterov momentum 0.9 on cross entropy.

    The learning rate is divided by 5 after 30, 60 and 80 % of the epochs. Images are shifted by up to an eighth of their size,
    with reflected borders, and mirrored with probability 1/2 unless they are digits.

    Attributes:
        p: drop probability in [0, 1]
        dataset: 'digits' (1,797 of 8 x 8, bundled with scikit-learn), 'cifar10' or 'cifar100' (60,000 of 32 x 32)
        train_images: number of images to train on, from the start of the training set; 0 for all that are not held out
        valid_images: number of images to hold out from the end of the training set, for an evaluation after each epoch
        depth: 6 n + 4 for n blocks per group
        width: factor of the 16, 32 and 64 channels of the groups
        placement: position of the noise: 'before-conv2', as in the authors' network, or 'after-conv1', before the normalisation
        epochs: number of passes over the training images
        batch_size: number of images per step; an incomplete last batch is skipped, as in the authors' code
        lr: initial learning rate
        weight_decay: L2 penalty on all parameters
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

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_at_least_1("width", "epochs", "batch_size")
        self._check_positive("lr")
        for name in ("train_images", "valid_images"):
            check_integer(name, getattr(self, name), 0, 2**31 - 1)
        self._check_not_negative("weight_decay")
        check_depth(self.depth)

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


def model(config: ImageConfig, data: LabelledImages) -> WideResNet:
    """Build the network of `config` for the channels and classes of `data`."""
    return WideResNet(config.depth, config.width, data.channels, data.classes, config.noise_layer, config.placement)


def test_batches(data: LabelledImages) -> tuple[Tensor, ...]:
    """Return the normalised test images, in batches."""
    return tuple(data.normalised(images) for images in data.test.images.split(BATCH))


class ImageLearner(Learner):
    """Minimises the mean cross entropy of shifted and mirrored images, with SGD."""

    network: WideResNet

    def __init__(self, config: ImageConfig, data: LabelledImages, network: WideResNet, accelerator: Accelerator) -> None:
        optimizer = torch.optim.SGD(
            network.parameters(), config.lr, momentum=0.9, nesterov=True, weight_decay=config.weight_decay
        )
        super().__init__(config, network, optimizer, accelerator)
        self.data = data.to(self.device)
        self.epoch = 0
        self.batches: tuple[Tensor, ...] = ()

    def start_epoch(self, epoch: int) -> int:
        self.epoch = epoch
        images, size = len(self.data.train), self.config.batch_size
        order = torch.randperm(images, generator=self.generator("order", epoch))
        self.batches = order.split(size)[: images // size]
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate(epoch)
        return len(self.batches)

    def loss(self, step: int) -> Loss:
        batch = self.batches[step].to(self.device)
        images, labels = self.data.train.images[batch], self.data.train.labels[batch]
        generator = self.generator("augmentation", self.epoch, step)
        images = crop_and_flip(images, images.shape[1] // 8, self.config.dataset != "digits", generator)
        logits = self.model(self.data.normalised(self.local_shard(images)))
        return Loss(F.cross_entropy(logits, self.local_shard(labels), reduction="sum"), len(batch))

    def clean_batches(self) -> list[Tensor]:
        images = (self.data.valid if len(self.data.valid) else self.data.train).images
        return [self.data.normalised(images[: max(BATCH, self.config.batch_size)])]

    def evaluate(self) -> Record:
        """Evaluate on the validation images or, if there are none, on the test images, as the authors' log does."""
        if not len(self.data.valid):
            return evaluate(self.network, self.data, profile=False)
        scores, sparsity = self._validate()
        return {**scores, **sparsity}

    def results(self) -> Record:
        scores = self._validate()[0] if len(self.data.valid) else {}
        return {**evaluate(self.network, self.data), **scores}

    def _validate(self) -> tuple[Record, Record]:
        """Return the scores and the sparsity on the validation images."""
        loss, accuracy, sparsity = _evaluate(self.network, self.data, self.data.valid)
        return {"valid_loss": loss, "valid_accuracy": accuracy}, sparsity


def evaluate(network: WideResNet, data: LabelledImages, profile: bool = True) -> Record:
    """Return the mean cross entropy of the test images, in nats, the accuracy, and the sparsity of the clean activations."""
    loss, accuracy, sparsity = _evaluate(network, data, data.test, profile)
    return {"test_loss": loss, "accuracy": accuracy, **sparsity}


@torch.no_grad()
def _evaluate(network: WideResNet, data: LabelledImages, part: Part, profile: bool = False) -> tuple[float, float, Record]:
    network.eval()
    device = next(network.parameters()).device
    loss, correct = 0.0, 0
    with measuring(network, network.regularised_layers, profile) as measures:
        for images, labels in zip(part.images.split(BATCH), part.labels.split(BATCH), strict=True):
            logits, labels = network(data.normalised(images.to(device))), labels.to(device)
            loss += F.cross_entropy(logits, labels, reduction="sum").item()
            correct += int((logits.argmax(1) == labels).sum())
    return loss / len(part), correct / len(part), measures.results()


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
        "paper": {"q": (1.5, 2.0, 2.5), "seed": (0, 1, 2, 3, 4), "dataset": "cifar10", "depth": 28, "width": 10},
    },
)
