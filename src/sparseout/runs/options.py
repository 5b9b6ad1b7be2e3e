"""The options of a study's runs: output folder, data, device, checkpoints. None of them changes a number or a run's name."""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import torch
import tyro
from accelerate import Accelerator
from upath import UPath

from sparseout.checks import check_number
from sparseout.errors import UserError
from sparseout.records.files import Location


def location(text: str) -> Location:
    """Return `text` as a local path or, for a URL, as a folder of any file system that fsspec supports.

    Raises:
        UserError: the file system is unknown, needs a package that is not installed, or cannot have such a folder.

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
        path.exists()  # raises for a name that is too long
    except PermissionError:
        return path
    except Exception as error:  # each file system raises exceptions of its own
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).partition("\n")[0]
        raise UserError(f"{text} cannot be used: {reason}") from error
    return path


def check_data_dir(folder: Path | None) -> None:
    """Raise `UserError` if `folder` is a file: a bundled data set would never look at it."""
    if folder is not None and folder.exists() and not folder.is_dir():
        raise UserError(f"--data-dir must be a folder, got the file {folder}")


def torch_device(name: str) -> torch.device:
    """Return the device called `name` after a test allocation; 'auto' is CUDA if it is available, else the CPU.

    Raises:
        UserError: torch cannot use the device.

    >>> torch_device("cpu")
    device(type='cpu')
    """
    try:
        if name == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        device = torch.zeros(1, device=name)
        device.item()  # raises for 'meta', which holds no values
        if torch.device(name).index not in (None, device.device.index or 0):
            raise RuntimeError(f"there is only {device.device}")
        return device.device
    except (RuntimeError, AssertionError, ImportError) as error:
        raise UserError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from error


_OUT = tyro.constructors.PrimitiveConstructorSpec(
    nargs=1,
    metavar="DIR|URL",
    instance_from_str=lambda words: location(words[0]),
    is_instance=lambda value: isinstance(value, Path | UPath),
    str_from_instance=lambda path: [str(path)],
)


@dataclasses.dataclass(frozen=True)
class RunOptions:
    """Options of a study's runs that do not change their numbers.

    Attributes:
        out: folder for the runs, the results and the report: a path, or a URL of any file system that fsspec supports
        data_dir: folder with the data set's files; without it the data is bundled, or comes from the Hugging Face hub
        device: 'cpu', 'cuda' or any other device of torch; 'auto' is CUDA if it is available, else the CPU
        checkpoint_minutes: minutes between two checkpoints within an epoch; each epoch also ends with a checkpoint
        tensorboard: write TensorBoard event files into the runs' folders, to watch the runs while they train
    """

    out: Annotated[Location, _OUT]
    data_dir: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    device: Annotated[str, tyro.conf.arg(metavar="NAME")] = "auto"
    checkpoint_minutes: Annotated[float, tyro.conf.arg(metavar="FLOAT")] = 10.0
    tensorboard: bool = False

    def flags(self) -> str:
        """Return the flags of the command line that set these options; defaults have none."""
        flags = ["--out", str(self.out)]
        for field in dataclasses.fields(self)[1:]:
            if (value := getattr(self, field.name)) != field.default:
                name = f"--{field.name.replace('_', '-')}"
                flags += [name] if value is True else [name, str(value)]
        return shlex.join(flags)

    def processes(self) -> int:
        """Return how many processes a launcher such as torchrun started to train each run together."""
        return int(os.environ.get("WORLD_SIZE", 1))

    def is_first_process(self) -> bool:
        """Return whether this is the first of these processes, the one that prints and writes the results."""
        return int(os.environ.get("RANK", 0)) == 0

    def check(self) -> None:
        """Raise `UserError` if a value is out of its range."""
        try:
            check_number("checkpoint_minutes", self.checkpoint_minutes, 0, sys.float_info.max, "a finite number of at least 0")
        except (TypeError, ValueError) as error:
            raise UserError(str(error)) from error
        check_data_dir(self.data_dir)

    def torch_device(self) -> torch.device:
        """Return the device after a test allocation."""
        return torch_device(self.device)

    def accelerator(self) -> Accelerator:
        """Return an accelerator for the device and for the processes that a launcher started.

        Raises:
            UserError: torch cannot use the device, or the processes cannot share it.
        """
        device = self.torch_device()
        accelerator = Accelerator(cpu=device.type == "cpu")
        if accelerator.device.type != device.type or (":" in self.device and accelerator.device != device):
            raise UserError(f"device must be 'auto', 'cpu' or {str(accelerator.device)!r} here, got {self.device!r}")
        return accelerator
