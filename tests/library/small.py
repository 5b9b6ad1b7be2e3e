"""Small helpers: seeded generators, a network with two Sparseout layers and its steps, and ways to copy a model."""

import copy
import io
import pickle

import torch
from torch import nn

from sparseout import Sparseout, SparsityTarget


def seeded(seed=0):
    """Return a generator on the CPU with this seed."""
    return torch.Generator().manual_seed(seed)


def network(activation=nn.ReLU, width=8):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, width), activation(), Sparseout(), nn.Linear(width, width), activation(), Sparseout())


def take(model, target: SparsityTarget, steps: int = 1, factor: float = 1.0, rows: int = 16):
    """Call the model and `step()` `steps` times, without training."""
    for step in range(steps):
        torch.manual_seed(step)
        model(factor * torch.randn(rows, 4))
        target.step()


def through_a_file(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda model: pickle.loads(pickle.dumps(model)), "torch.save": through_a_file}
