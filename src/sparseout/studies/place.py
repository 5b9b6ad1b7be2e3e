"""Where a study runs: none of it changes what its numbers mean, so none of it is in a run's name."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from accelerate import Accelerator

from sparseout.studies.config import UserError


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a study runs.

    Attributes:
        out: folder for the runs, the results and the report
        data_dir: folder with the data set's files; by default it comes from the hub, or is bundled
        device: 'cpu', 'cuda' or any other that torch knows; 'auto' is the accelerator if there is one
        checkpoint_minutes: between two checkpoints within an epoch; each epoch ends with one too
        tensorboard: write TensorBoard's event files into the runs' folders, to watch them while they train
    """

    out: Path
    data_dir: Path | None = None
    device: str = "auto"
    checkpoint_minutes: float = 10.0
    tensorboard: bool = False

    def torch_device(self) -> torch.device:
        """The device, checked by putting a number on it."""
        try:
            if self.device == "auto":
                return torch.device("cuda" if torch.cuda.is_available() else "cpu")
            return torch.zeros(1, device=self.device).device
        except (RuntimeError, AssertionError) as error:
            raise UserError(f"device {self.device!r} cannot be used: {str(error).splitlines()[0]}") from error

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
