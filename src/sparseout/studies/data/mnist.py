"""Images: scikit-learn's digits, which need no download, and MNIST in the hub's parquet layout."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy
import torch
from torch import Tensor

from sparseout.errors import UserError
from sparseout.extras import needed_for

if TYPE_CHECKING:
    import datasets

Name = Literal["digits", "mnist"]
HUB = {"mnist": "ylecun/mnist", "cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}
MAX_ROWS, MAX_BYTES = 1_000_000, 2**33  # of a decompressed parquet file; the largest data set has 60,000 rows and 200 MB
DIGITS_TEST = 360  # test images, the last fifth of the digits


@dataclasses.dataclass(frozen=True)
class Images:
    """Flattened grey images with values in [0, 1], as float32 tensors `(samples, pixels)`."""

    train: Tensor
    valid: Tensor
    test: Tensor

    def to(self, device: torch.device) -> Images:
        """Return a copy on `device`."""
        return Images(self.train.to(device), self.valid.to(device), self.test.to(device))


def load(name: str, data_dir: Path | None = None, valid_images: int = 0) -> Images:
    """Load a data set.

    Args:
        name: `"digits"`, 8 x 8, the last 360 of which are the test set; or `"mnist"`, 28 x 28.
        data_dir: folder with `train*.parquet` and `test*.parquet`, or with a subfolder `name` that has them; not needed for
            `"digits"`. Default: the Hugging Face hub or its cache.
        valid_images: number of training images to hold out, from the end.

    Raises:
        UserError: the data set is unknown, missing, unreadable or too small.
    """
    if name not in get_args(Name):
        raise UserError(f"dataset must be one of {', '.join(map(repr, get_args(Name)))}, got {name!r}")
    learned, test = _digits() if name == "digits" else _mnist(data_dir)
    end = len(learned) - valid_images
    if end < 1:
        raise UserError(f"valid_images must be below the {len(learned)} training images, got {valid_images}")
    return Images(learned[:end], learned[end:], test)


@functools.cache
def _digits() -> tuple[Tensor, Tensor]:
    """Return the training and the test images."""
    images = read_digits()[0].float() / 16
    return images[:-DIGITS_TEST], images[-DIGITS_TEST:]


def read_digits() -> tuple[Tensor, Tensor]:
    """Return the images of scikit-learn's digits, float64 `(1797, 64)` with values in [0, 16], and their classes, int64.

    They are read from scikit-learn's own file, because the import of scikit-learn takes a second.

    Raises:
        MissingPackageError: scikit-learn is not installed.
    """
    with needed_for("the data set digits", "studies"):
        found = importlib.util.find_spec("sklearn")
        if not (found and found.origin):
            raise ModuleNotFoundError(name="scikit-learn")
    table = torch.from_numpy(numpy.loadtxt(Path(found.origin).parent / "datasets/data/digits.csv.gz", delimiter=","))
    return table[:, :-1].contiguous(), table[:, -1].long()


@functools.cache
def _mnist(data_dir: Path | None) -> tuple[Tensor, Tensor]:
    train, test = (_decoded(split, data_dir) for split in ("train", "test"))
    return train.flatten(1).float() / 255, test.flatten(1).float() / 255


def _decoded(split: str, data_dir: Path | None) -> Tensor:
    with naming("mnist", split, data_dir):
        return decode(read_split("mnist", split, data_dir), "image", (28, 28))


@contextlib.contextmanager
def naming(name: str, split: str, data_dir: Path | None) -> Iterator[None]:
    """Add the names of a split's files to errors about their content."""
    try:
        yield
    except UserError as error:
        files = _files(name, split, data_dir) if data_dir else []
        if files and str(data_dir) not in str(error):
            raise UserError(f"{', '.join(map(str, files))}: {error}") from error
        raise


def _files(name: str, split: str, data_dir: Path) -> list[Path]:
    return sorted([*data_dir.glob(f"{split}*.parquet"), *data_dir.glob(f"{name}/{split}*.parquet")])


def read_split(name: str, split: str, data_dir: Path | None) -> datasets.Dataset:
    """Load a split of a data set in the hub's parquet layout.

    Args:
        name: a key of `HUB`.
        split: `"train"` or `"test"`.
        data_dir: folder with `SPLIT*.parquet` or with `NAME/SPLIT*.parquet`. Default: the Hugging Face hub or its cache.

    Raises:
        UserError: the split is missing or unreadable.
    """
    with needed_for(f"the data set {name}", "data"):
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
    files = _files(name, split, data_dir)
    if not files:
        raise UserError(f"--data-dir must hold {split}*.parquet or {name}/{split}*.parquet: {data_dir} has neither")
    for file in files:
        _check_parquet(file)
    try:
        return datasets.Dataset.from_parquet(list(map(str, files)))
    except Exception as error:  # hostile bytes may raise anything
        cause = error.__cause__ or error
        if isinstance(cause, OSError) and cause.errno is not None and cause.filename not in map(str, files):
            cache = datasets.config.HF_DATASETS_CACHE
            raise UserError(f"HF_DATASETS_CACHE must be a folder that can be written: {cache}: {cause.strerror}") from error
        reason = (str(cause).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{files[0]} cannot be read as parquet, or is empty: {reason}") from error


def _check_parquet(file: Path) -> None:
    """Raise `UserError` if a file declares more data than any of the data sets has, before it is decompressed."""
    import pyarrow.parquet

    try:
        found = pyarrow.parquet.read_metadata(file)
        size = sum(found.row_group(i).total_byte_size for i in range(found.num_row_groups))
    except Exception as error:  # hostile bytes may raise anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{file} cannot be read as parquet, or is empty: {reason}") from error
    if found.num_rows > MAX_ROWS or not 0 <= size <= MAX_BYTES:
        allowed = f"at most {MAX_ROWS:,} rows and {MAX_BYTES:,} bytes"
        raise UserError(f"{file} must be a parquet file that declares {allowed}, got {found.num_rows:,} rows and {size:,} bytes")


def decode(split: datasets.Dataset, column: str, shape: tuple[int, ...]) -> Tensor:
    """Decode the pictures in a column to uint8 `(rows, *shape)`.

    Args:
        split: the rows.
        column: name of the column.
        shape: `(height, width)` for grey pictures, `(height, width, 3)` for colour.

    Raises:
        UserError: the column is missing, or holds anything but encoded pictures of that shape.
    """
    import datasets
    import PIL.Image

    check_column(split, column)
    pixels = numpy.empty((len(split), *shape), dtype=numpy.uint8)
    row, mode = 0, "L" if len(shape) == 2 else "RGB"
    try:
        for batch in split.select_columns(column).cast_column(column, datasets.Image(decode=False)).iter(1000):
            for picture in batch[column]:
                with PIL.Image.open(io.BytesIO(picture["bytes"])) as image:
                    bands = len(image.getbands())
                    size = (image.height, image.width, bands)[: 2 + (bands > 1)]  # known before decompression
                    if size != shape:
                        raise ValueError(f"row {row} has {' x '.join(map(str, size))}")
                    if image.mode != mode:  # other colour spaces, or more than a byte per value
                        raise ValueError(f"row {row} has the mode {image.mode!r}, not {mode!r}")
                    pixels[row] = numpy.asarray(image)
                row += 1
    except Exception as error:  # decoders raise undocumented errors for hostile bytes
        kind = f"{'grey' if len(shape) == 2 else 'colour'} pictures of {' x '.join(map(str, shape))} values"
        raise UserError(f"the column {column!r} must hold encoded {kind}: {error}") from error
    return torch.from_numpy(pixels)


def check_column(split: datasets.Dataset, column: str) -> None:
    """Raise `UserError` if the split has no such column."""
    if column not in split.column_names:
        raise UserError(f"the parquet files must have a column {column!r}, got {', '.join(split.column_names)}")
