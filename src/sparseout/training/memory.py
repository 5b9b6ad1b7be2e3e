"""Whether a run's network fits into memory, found before anything of it is made or written."""

from __future__ import annotations

import os
from typing import Any

import torch

from sparseout.errors import UserError
from sparseout.training.config import Config
from sparseout.training.study import Study

SIZES = ("num_layers", "depth", "width", "hidden_size", "embedding_size")  # the settings that a network's size depends on


def check_memory(study: Study, config: Config, data: Any, device: torch.device) -> None:
    """Refuse a run whose weights and gradients, `2 * bytes of the parameters`, are more than the memory of `device`.

    Args:
        study: the experiment.
        config: the run.
        data: what `study.load` returns for it.
        device: that it trains on.

    Raises:
        UserError: it needs more than there is.
    """
    there = _memory(device)
    sizes = " and ".join(f"{name} of {getattr(config, name)}" for name in SIZES if hasattr(config, name))
    try:
        with torch.device("meta"):
            needed = 2 * sum(parameter.nbytes for parameter in study.model(config, data).parameters())
    except (RuntimeError, OverflowError) as error:  # more than a number of 64 bits can count
        raise UserError(f"{sizes} needs more memory than any machine has: {str(error).splitlines()[0]}") from error
    if there and needed > there:
        raise UserError(f"{sizes} needs about {needed / 1e9:,.0f} GB for weights and gradients: {device} has {there / 1e9:,.0f}")


def _memory(device: torch.device) -> int | None:
    """Bytes that `device` has in all; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if device.type == "cpu" else None
    except (AttributeError, ValueError, OSError):
        return None
