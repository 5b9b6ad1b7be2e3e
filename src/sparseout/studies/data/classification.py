"""Labelled images: scikit-learn's digits, which need no download, and CIFAR-10 and CIFAR-100 in the hub's parquet layout."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from sparseout.errors import UserError
from sparseout.studies.data.mnist import DIGITS_TEST, check_column, decode, naming, read_digits, read_split

if TYPE_CHECKING:
    import datasets

Name = Literal["digits", "cifar10", "cifar100"]
LABELS = {"cifar10": ("label", 10), "cifar100": ("fine_label", 100)}


@dataclasses.dataclass(frozen=True)
class Part:
    """Images and their classes: `images` uint8 `(samples, height, width, channels)`, `labels` int64 `(samples,)`."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice | list[int]) -> Part:
        return Part(self.images[rows], self.labels[rows])

    def to(self, device: torch.device) -> Part:
        """Return a copy on `device`."""
        return Part(self.images.to(device), self.labels.to(device))


@dataclasses.dataclass(frozen=True)
class LabelledImages:
    """A data set for classification.

    Attributes:
        train: training set.
        valid: validation set, which may be empty.
        test: test set.
        classes: number of classes.
        mean, std: mean and standard deviation of each channel over the pixels of `train`, float32.
    """

    train: Part
    valid: Part
    test: Part
    classes: int
    mean: Tensor
    std: Tensor

    @property
    def channels(self) -> int:
        """The number of channels: 1 for grey images, 3 for colour."""
        return self.train.images.shape[-1]

    def normalised(self, images: Tensor) -> Tensor:
        """Return `(x - mean) / std`, of shape `(samples, channels, height, width)` in `torch.channels_last` memory."""
        mean, std = self.mean.to(images.device), self.std.to(images.device)
        return ((images - mean) / std).permute(0, 3, 1, 2)

    def to(self, device: torch.device) -> LabelledImages:
        """Return a copy on `device`."""
        moved = {name: getattr(self, name).to(device) for name in ("train", "valid", "test", "mean", "std")}
        return dataclasses.replace(self, **moved)


@functools.cache
def load(name: str, data_dir: Path | None = None, train_images: int = 0, valid_images: int = 0) -> LabelledImages:
    """Load a data set.

    Args:
        name: `"digits"`, 1,797 grey images of 8 x 8, the last 360 of which are the test set; `"cifar10"` or `"cifar100"`
            with its fine labels, 60,000 colour images of 32 x 32, 10,000 of which are the test set.
        data_dir: folder with `train*.parquet` and `test*.parquet`, or with a subfolder `name` that has them; not needed for
            `"digits"`. Default: the Hugging Face hub or its cache.
        train_images: number of training images, from the start; 0 for all that are not held out.
        valid_images: number of training images to hold out, from the end.

    Raises:
        UserError: the data set is unknown, missing, unreadable or too small, or has other images or labels.
    """
    if name not in get_args(Name):
        raise UserError(f"dataset must be one of {', '.join(map(repr, get_args(Name)))}, got {name!r}")
    if name == "digits":
        learned, test = _digits()
        learned = learned[_rows(len(learned), train_images, valid_images)]
    else:
        with naming(name, "train", data_dir):
            split = read_split(name, "train", data_dir)
            learned = _part(split.select(_rows(len(split), train_images, valid_images)), *LABELS[name])
        with naming(name, "test", data_dir):
            test = _part(read_split(name, "test", data_dir), *LABELS[name])
    end = len(learned) - valid_images
    classes = 10 if name == "digits" else LABELS[name][1]
    return LabelledImages(learned[:end], learned[end:], test, classes, *_moments(learned.images[:end]))


def _rows(count: int, train_images: int, valid_images: int) -> list[int]:
    """Return the rows to train on, followed by those to hold out, of `count` rows."""
    rest = count - valid_images
    if rest < max(train_images, 1):
        wanted = f"train_images={train_images or 1} and valid_images={valid_images}"
        raise UserError(f"{wanted} must add up to at most the {count} training images")
    return [*range(train_images or rest), *range(rest, count)]


def _digits() -> tuple[Part, Part]:
    values, labels = read_digits()
    everything = Part(values.view(-1, 8, 8, 1).to(torch.uint8), labels)
    return everything[:-DIGITS_TEST], everything[-DIGITS_TEST:]


def _part(split: datasets.Dataset, column: str, classes: int) -> Part:
    check_column(split, "img")
    check_column(split, column)
    wanted = f"the column {column!r} must hold integers in [0, {classes - 1}]"
    values = split.select_columns(column)[:][column]
    if not all(type(value) is int for value in values):
        raise UserError(f"{wanted}, got a {next(type(value).__name__ for value in values if type(value) is not int)}")
    labels = torch.tensor(values, dtype=torch.int64)
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise UserError(f"{wanted}, got {wrong[0]}")
    return Part(decode(split, "img", (32, 32, 3)), labels)


def _moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the standard deviation of each channel; the standard deviation of a constant channel is 1."""
    counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in images.unbind(-1)]).double()
    values, total = torch.arange(256.0, dtype=torch.float64), counts.sum(1)
    mean = counts @ values / total
    std = ((counts * (values - mean[:, None]) ** 2).sum(1) / total).sqrt()
    return mean.float(), torch.where(std > 0, std, 1).float()
