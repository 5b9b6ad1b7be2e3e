"""A network with two Sparseout layers, and steps for a `SparsityTarget` to measure."""

import torch
from torch import nn

from sparseout import Sparseout, SparsityTarget


def network(activation=nn.ReLU, width=8):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, width), activation(), Sparseout(), nn.Linear(width, width), activation(), Sparseout())


def take(model, target: SparsityTarget, steps: int = 1, factor: float = 1.0, rows: int = 16):
    """Call the model and `target.step()` `steps` times, without training."""
    for step in range(steps):
        torch.manual_seed(step)
        model(factor * torch.randn(rows, 4))
        target.step()
