"""The studies' images: scikit-learn's digits, which need no network, and MNIST in the hub's parquet layout."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy
import torch
from torch import Tensor

from sparseout.studies.config import UserError

if TYPE_CHECKING:
    import datasets

Name = Literal["digits", "mnist"]
HUB = {"mnist": "ylecun/mnist"}


@dataclasses.dataclass(frozen=True)
class Images:
    """Flattened grey images with values in [0, 1]: float32 tensors `(samples, pixels)`."""

    train: Tensor
    test: Tensor

    def to(self, device: torch.device) -> Images:
        """The same images on `device`."""
        return Images(self.train.to(device), self.test.to(device))


def load(name: str, data_dir: Path | None = None) -> Images:
    """Load a data set.

    Args:
        name: `"digits"`, 8 x 8, of which the last fifth (360 images) is the test set; or `"mnist"`, 28 x 28.
        data_dir: folder with `train*.parquet` and `test*.parquet`, or with a folder `name` that has them; `"digits"` needs none.
            Default: the Hugging Face hub or its cache.

    Raises:
        UserError: the data set is unknown, missing or unreadable.
    """
    if name not in get_args(Name):
        raise UserError(f"dataset must be one of {', '.join(map(repr, get_args(Name)))}, got {name!r}")
    return _digits() if name == "digits" else _mnist(data_dir)


@functools.cache
def _digits() -> Images:
    from sklearn.datasets import load_digits

    images = torch.from_numpy(load_digits().data).float() / 16
    return Images(images[:-360], images[-360:])


@functools.cache
def _mnist(data_dir: Path | None) -> Images:
    train, test = (_pixels(_split("mnist", split, data_dir), 28 * 28) for split in ("train", "test"))
    return Images(train, test)


def _split(name: str, split: str, data_dir: Path | None) -> datasets.Dataset:
    import datasets
    import huggingface_hub.utils

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    huggingface_hub.utils.logging.set_verbosity_error()
    if data_dir is None:
        try:
            return datasets.load_dataset(HUB[name], split=split)
        except OSError as error:
            raise UserError(
                f"{name} could not be loaded from the hub ({error}): "
                "give --data-dir, a folder with its train.parquet and test.parquet"
            ) from error
    files = [*data_dir.glob(f"{split}*.parquet"), *data_dir.glob(f"{name}/{split}*.parquet")]
    if not files:
        raise UserError(f"--data-dir must hold {split}*.parquet or {name}/{split}*.parquet: {data_dir} has neither")
    try:
        return datasets.Dataset.from_parquet(sorted(map(str, files)))
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise UserError(f"{files[0]} cannot be read as parquet: {str(error).splitlines()[0]}") from error


def _pixels(split: datasets.Dataset, count: int) -> Tensor:
    """The column `image`, encoded pictures, as values in [0, 1]."""
    import datasets

    if "image" not in split.column_names:
        raise UserError(f"the parquet files must have a column 'image', got {', '.join(split.column_names)}")
    try:
        pictures = split.select_columns("image").cast_column("image", datasets.Image())
        pixels = numpy.stack([numpy.asarray(row["image"], dtype=numpy.uint8).reshape(count) for row in pictures])
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"the column 'image' must hold encoded grey pictures of {count} pixels: {error}") from error
    return torch.from_numpy(pixels).float() / 255
