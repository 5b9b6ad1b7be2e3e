"""A check that a device can train a run's network, before the run creates or writes anything."""

from __future__ import annotations

import os
from typing import Any

import torch

from sparseout.errors import UserError
from sparseout.training.config import Config
from sparseout.training.precision import check_precision
from sparseout.training.study import Study

SIZES = ("num_layers", "depth", "width", "hidden_size", "embedding_size")  # settings that determine a network's size


def check_network(study: Study, config: Config, data: Any, device: torch.device) -> None:
    """Raise `UserError` if a run's weights and gradients, `2 * bytes of the parameters`, exceed the memory of `device`.

    Raise it too if the device cannot train the network in the run's precision. A network that cannot be built without memory,
    for example because it loads its weights, is not checked.

    Args:
        study: the experiment.
        config: the run.
        data: the result of `study.load` for the run.
        device: the device to train on.
    """
    available = _memory(device)
    used = [name for name in SIZES if hasattr(config, name) and name not in config.unused()]
    sizes = ", ".join(f"{name}={getattr(config, name)}" for name in used)
    network = f"a network with {sizes}" if sizes else "the network"
    try:
        with torch.device("meta"):
            built = study.model(config, data)
            needed = 2 * sum(parameter.nbytes for parameter in built.parameters())
    except (RuntimeError, OverflowError) as error:  # the size does not fit into 64 bits
        if config.source and "overflow" not in str(error).lower():
            return
        raise UserError(f"{network} needs more memory than any machine has: {str(error).splitlines()[0]}") from error
    if available and needed > available:
        raise UserError(
            f"{network} needs about {needed / 1e9:,.0f} GB for weights and gradients: {device} has {available / 1e9:,.0f} GB"
        )
    check_precision(config, built, device)


def _memory(device: torch.device) -> int | None:
    """Return the total memory of `device` in bytes, or None if the system does not report it."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if device.type == "cpu" else None
    except (AttributeError, ValueError, OSError):
        return None
