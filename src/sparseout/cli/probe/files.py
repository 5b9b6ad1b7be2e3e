"""Input files: lines of text, pictures, or an array. Nothing in them is executed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sparseout.cli.probe.subject import first_line
from sparseout.errors import UserError
from sparseout.studies.data.text import read_text

if TYPE_CHECKING:
    import PIL.Image

PICTURES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def listed(paths: Sequence[Path]) -> list[Path]:
    """The files that `paths` name; a folder stands for the files in it, by name.

    Raises:
        UserError: there are none, or one is missing.
    """
    files = []
    for path in paths:
        if not path.exists() or path.is_char_device() or path.is_block_device():
            raise UserError(f"--data must name files or folders that exist, got {path}")
        files += sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
    if not files:
        raise UserError(f"--data must name at least one file, got {', '.join(map(str, paths)) or 'none'}")
    return files


def are_pictures(files: Sequence[Path]) -> bool:
    """Whether all files are pictures by name.

    Raises:
        UserError: only some are.
    """
    pictures = [file for file in files if file.suffix.lower() in PICTURES]
    if pictures and len(pictures) < len(files):
        other = next(file for file in files if file not in pictures)
        raise UserError(f"--data must be pictures or text, not both: {pictures[0]} and {other}")
    return bool(pictures)


def texts(files: Sequence[Path]) -> list[str]:
    """The lines of text files that are not blank.

    Raises:
        UserError: a file is no text in UTF-8, has a line of more than 4 MB, or there is no line.
    """
    lines = []
    for file in files:
        lines += [line for line in read_text(file).splitlines() if line.strip()]
    if not lines:
        raise UserError(f"--data must hold at least one line of text: {', '.join(map(str, files))} is empty")
    return lines


def picture(file: Path) -> PIL.Image.Image:
    """A picture in colour.

    Raises:
        UserError: the file is none.
    """
    import PIL.Image

    try:
        with PIL.Image.open(file) as image:
            colour: PIL.Image.Image = image.convert("RGB")
            return colour
    except Exception as error:  # a decoder fails of hostile bytes in more ways than it documents
        raise UserError(f"{file} cannot be read as a picture: {first_line(error)}") from error


def array(file: Path) -> Tensor:
    """An array of samples from a `.npy` file.

    Raises:
        UserError: it is something else, is empty, or would have to be unpickled.
    """
    import numpy

    try:
        mapped = numpy.load(file, mmap_mode="r", allow_pickle=False)  # of no more than the file holds
        values = torch.from_numpy(numpy.array(mapped) if isinstance(mapped, numpy.ndarray) else mapped)
    except Exception as error:  # as hostile bytes may raise anything
        raise UserError(f"{file} cannot be read as an array of numbers in .npy: {first_line(error)}") from error
    if not values.dim() or not len(values):
        raise UserError(f"{file} must hold at least one sample, got shape {tuple(values.shape)}")
    return values
