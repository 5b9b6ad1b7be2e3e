"""A check that the processor can train a run's network in its precision."""

from __future__ import annotations

import torch
from torch import nn

from sparseout.errors import UserError
from sparseout.training.config import Config


def check_precision(config: Config, network: nn.Module, device: torch.device) -> None:
    """Raise `UserError` if the run has an LSTM in bfloat16, and PyTorch has none for `device`."""
    has_lstm = any(isinstance(module, nn.LSTM) for module in network.modules())
    if config.precision == "bf16" and has_lstm and not _has_bfloat16_lstm(device):
        raise UserError(
            "precision must be 'fp32' here, got 'bf16': PyTorch has no LSTM in bfloat16 for this processor "
            "(an x86 CPU needs AVX-512)"
        )


def _has_bfloat16_lstm(device: torch.device) -> bool:
    """Return whether an LSTM runs; PyTorch has no public function that tells. No random number is drawn."""
    with torch.random.fork_rng(devices=[]):
        lstm = nn.LSTM(1, 1).to(device)
    try:
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            lstm(torch.zeros(1, 1, 1, device=device))
    except RuntimeError:
        return False
    return True
