"""The paper's image classification: wide residual networks with noise in their blocks, and how `q` changes what they learn."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from sparseout.checks import check_number
from sparseout.studies import labelled, measure
from sparseout.studies.augmentation import crop_and_flip
from sparseout.studies.config import Config, UserError
from sparseout.studies.labelled import LabelledImages, Part
from sparseout.studies.learner import Learner, Loss
from sparseout.studies.records import Record
from sparseout.studies.wide_resnet import Placement, WideResNet, check_depth

BATCH = 500  # held-out images at a time
DECAYS = (3, 6, 8)  # tenths of the epochs, after each of which the learning rate falls to a fifth


@dataclasses.dataclass(frozen=True)
class ImageConfig(Config):
    """Train a wide residual network, with noise in its blocks, by SGD with Nesterov's momentum of 0.9 on cross entropy.

    The learning rate falls to a fifth after 30, 60 and 80 % of the epochs. Images are shifted by up to an eighth of their size,
    reflected at the borders, and mirrored with probability 1/2 unless they are digits.

    Attributes:
        p: drop probability in [0, 1]
        dataset: 'digits' (1,797 of 8 x 8, bundled with scikit-learn), 'cifar10' or 'cifar100' (60,000 of 32 x 32)
        train_images: how many to learn from, the first ones; 0 is all that are not held out
        valid_images: how many of the training images to hold out, the last ones, and to evaluate each epoch
        depth: 6 n + 4 for n blocks in each of the three groups
        width: factor of the channels 16, 32 and 64
        placement: of the noise: 'before-conv2' as in the authors' network, or 'after-conv1', before the normalisation
        epochs: passes over the training images
        batch_size: images a step; what is left of an epoch's order is skipped, as the authors do
        lr: learning rate at the start
        weight_decay: of all parameters
    """

    study: ClassVar[str] = "image"

    p: float = 0.3
    dataset: labelled.Name = "digits"
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
            check_number(name, getattr(self, name), 0, 2**31 - 1, "an integer of at least 0")
        check_number("weight_decay", self.weight_decay, 0, sys.float_info.max, "a number of at least 0")
        check_depth(self.depth)

    def learning_rate(self, epoch: int) -> float:
        """The learning rate in `epoch`, counted from 1."""
        return self.lr * 0.2 ** sum(10 * (epoch - 1) >= tenths * self.epochs for tenths in DECAYS)


def load(config: ImageConfig, data_dir: Path | None) -> LabelledImages:
    """The images of `config.dataset`.

    Raises:
        UserError: they cannot be used, or are fewer than a batch.
    """
    data = labelled.load(config.dataset, data_dir, config.train_images, config.valid_images)
    if len(data.train) < config.batch_size:
        raise UserError(f"batch_size must be at most the {len(data.train)} training images, got {config.batch_size}")
    return data


def model(config: ImageConfig, data: LabelledImages) -> WideResNet:
    """The network of `config` for images and classes as `data` has."""
    return WideResNet(config.depth, config.width, data.channels, data.classes, config.noise_layer, config.placement)


def test_batches(data: LabelledImages) -> tuple[Tensor, ...]:
    """The test images, as the network takes them."""
    return tuple(data.normalised(images) for images in data.test.images.split(BATCH))


class ImageLearner(Learner):
    """Minimises the cross entropy of shifted and mirrored images, in nats an image."""

    def __init__(self, config: ImageConfig, data: LabelledImages, network: nn.Module, accelerator: Accelerator) -> None:
        optimizer = torch.optim.SGD(
            network.parameters(), config.lr, momentum=0.9, nesterov=True, weight_decay=config.weight_decay
        )
        super().__init__(config, network, optimizer, accelerator)
        self.data = data.to(self.device)
        self.epoch = 0
        self.batches: tuple[Tensor, ...] = ()

    def begin(self, epoch: int) -> int:
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
        logits = self.model(self.data.normalised(self.share(images)))
        return Loss(F.cross_entropy(logits, self.share(labels), reduction="sum"), len(batch))

    def evaluate(self) -> Record:
        """The loss, the accuracy and the sparsity on the validation images, or where there are none on the test images."""
        if len(self.data.valid):
            record = _evaluate(self.network, self.data, self.data.valid)
            record = {"valid_loss": record.pop("loss"), "valid_accuracy": record.pop("accuracy"), **record}
        else:
            record = evaluate(self.network, self.data)
        del record["layers"]
        return record

    def results(self) -> Record:
        return evaluate(self.network, self.data)


def evaluate(network: nn.Module, data: LabelledImages) -> Record:
    """Mean cross entropy, in nats an image, accuracy, and the sparsity of the clean activations, on the test images."""
    record = _evaluate(network, data, data.test)
    return {"test_loss": record.pop("loss"), **record}


@torch.no_grad()
def _evaluate(network: nn.Module, data: LabelledImages, part: Part) -> dict[str, Any]:
    network.eval()
    loss, correct = 0.0, 0
    with measure.measuring(network) as measures:
        for images, labels in zip(part.images.split(BATCH), part.labels.split(BATCH), strict=True):
            logits = network(data.normalised(images))
            loss += F.cross_entropy(logits, labels, reduction="sum").item()
            correct += int((logits.argmax(1) == labels).sum())
    return {"loss": loss / len(part), "accuracy": correct / len(part), **measures.results()}
