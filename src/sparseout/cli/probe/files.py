"""Input files: lines of text, images, or an array. Nothing in them is executed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sparseout.errors import UserError
from sparseout.studies.data.text import read_text
from sparseout.user_code import first_line

if TYPE_CHECKING:
    import PIL.Image

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def list_files(paths: Sequence[Path]) -> list[Path]:
    """Return the files that `paths` name; a folder stands for the files in it, in the order of their names.

    Raises:
        UserError: there is no file, or one is missing.
    """
    files = []
    for path in paths:
        if not path.exists() or path.is_char_device() or path.is_block_device():
            raise UserError(f"--data must name files or folders that exist, got {path}")
        files += sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
    if not files:
        raise UserError(f"--data must name at least one file, got {', '.join(map(str, paths)) or 'none'}")
    return files


def are_images(files: Sequence[Path]) -> bool:
    """Return whether the files are images, by their suffixes.

    Raises:
        UserError: only some of them are.
    """
    images = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
    if images and len(images) < len(files):
        other = next(file for file in files if file not in images)
        raise UserError(f"--data must be images or text, not both: {images[0]} and {other}")
    return bool(images)


def read_lines(files: Sequence[Path]) -> list[str]:
    """Return the lines of text files, without blank lines.

    Raises:
        UserError: a file is not UTF-8 text, has a line of more than 4 MB, or there is no line.
    """
    lines = []
    for file in files:
        lines += [line for line in read_text(file).splitlines() if line.strip()]
    if not lines:
        raise UserError(f"--data must hold at least one line of text: {', '.join(map(str, files))} is empty")
    return lines


def read_image(file: Path) -> PIL.Image.Image:
    """Return an image in colour.

    Raises:
        UserError: the file cannot be read as an image.
    """
    import PIL.Image

    try:
        with PIL.Image.open(file) as image:
            colour: PIL.Image.Image = image.convert("RGB")
            return colour
    except Exception as error:  # decoders raise undocumented errors on corrupt data
        raise UserError(f"{file} cannot be read as an image: {first_line(error)}") from error


def read_array(file: Path) -> Tensor:
    """Return the array of samples in a `.npy` file.

    Raises:
        UserError: the file is not such an array, is empty, or contains pickled objects.
    """
    import numpy

    try:
        mapped = numpy.load(file, mmap_mode="r", allow_pickle=False)  # allocates no more than the size of the file
        values = torch.from_numpy(numpy.array(mapped) if isinstance(mapped, numpy.ndarray) else mapped)
    except Exception as error:  # corrupt data may raise any error
        raise UserError(f"{file} cannot be read as a .npy array of numbers: {first_line(error)}") from error
    if not values.dim() or not len(values):
        raise UserError(f"{file} must hold at least one sample, got shape {tuple(values.shape)}")
    return values
