"""Where a study runs: none of it changes what its numbers mean, so none of it is in a run's name."""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from upath import UPath

from sparseout.checks import check_number
from sparseout.errors import UserError
from sparseout.records.files import Location


def location(text: str) -> Location:
    """A local path, or by its URL a folder of any file system that fsspec knows.

    Raises:
        UserError: there is no such file system, what it needs is not installed, or there can be no such folder.

    >>> location("runs/autoencoder"), location("file:///tmp/runs"), location("memory://bucket/runs").name
    (PosixPath('runs/autoencoder'), PosixPath('/tmp/runs'), 'runs')
    """
    if not text:
        raise UserError("the folder must have a name, or be a URL, got ''")
    try:
        path = UPath(text) if "://" in text else Path(text)
        if isinstance(path, UPath) and not path.path.strip("/"):
            raise ValueError("it names no folder")
        path = Path(path.path) if isinstance(path, UPath) and path.fs.protocol == ("file", "local") else path
        path.exists()  # which a name that is too long cannot
    except PermissionError:
        return path
    except Exception as error:  # of a file system, of which there are many kinds
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).partition("\n")[0]
        raise UserError(f"{text} cannot be used: {reason}") from error
    return path


def check_data_dir(folder: Path | None) -> None:
    """Raise `UserError` for a file in the folder's place; a data set that comes bundled would never look at it."""
    if folder is not None and folder.exists() and not folder.is_dir():
        raise UserError(f"--data-dir must be a folder, got the file {folder}")


def torch_device(name: str) -> torch.device:
    """The device called `name`, checked by putting a number on it; 'auto' is the accelerator if there is one.

    Raises:
        UserError: it cannot be used.

    >>> torch_device("cpu")
    device(type='cpu')
    """
    try:
        if name == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        device = torch.zeros(1, device=name)
        device.item()  # which 'meta' has none of
        if torch.device(name).index not in (None, device.device.index or 0):
            raise RuntimeError(f"there is only {device.device}")
        return device.device
    except (RuntimeError, AssertionError, ImportError) as error:
        raise UserError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from error


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """Where a study runs.

    Attributes:
        out: folder for the runs, the results and the report, or its URL on any file system that fsspec knows
        data_dir: folder with the data set's files; by default it comes from the hub, or is bundled
        device: 'cpu', 'cuda' or any other that torch knows; 'auto' is the accelerator if there is one
        checkpoint_minutes: between two checkpoints within an epoch; each epoch ends with one too
        tensorboard: write TensorBoard's event files into the runs' folders, to watch them while they train
    """

    out: Location
    data_dir: Path | None = None
    device: str = "auto"
    checkpoint_minutes: float = 10.0
    tensorboard: bool = False

    def flags(self) -> str:
        """The flags that say so."""
        flags = ["--out", str(self.out)]
        flags += ["--data-dir", str(self.data_dir)] if self.data_dir else []
        flags += ["--device", self.device] if self.device != "auto" else []
        return shlex.join(flags)

    def processes(self) -> int:
        """How many processes a launcher started to train each run together."""
        return int(os.environ.get("WORLD_SIZE", 1))

    def check(self) -> None:
        """Raise `UserError` unless every value is in its range."""
        try:
            check_number("checkpoint_minutes", self.checkpoint_minutes, 0, sys.float_info.max, "a finite number of at least 0")
        except (TypeError, ValueError) as error:
            raise UserError(str(error)) from error
        check_data_dir(self.data_dir)

    def torch_device(self) -> torch.device:
        """The device, checked by putting a number on it."""
        return torch_device(self.device)

    def accelerator(self) -> Accelerator:
        """The device, and the other processes where a launcher started several.

        Raises:
            UserError: the device cannot be used, or several processes cannot use it.
        """
        device = self.torch_device()
        accelerator = Accelerator(cpu=device.type == "cpu")
        if accelerator.device.type != device.type or (":" in self.device and accelerator.device != device):
            raise UserError(f"device must be 'auto', 'cpu' or {str(accelerator.device)!r} here, got {self.device!r}")
        return accelerator
