"""A small model to probe, its input, and the hooks that it carries."""

import torch
from torch import nn


def mlp(*after):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), *after)


def hooks(model):
    return sum(len(found) for module in model.modules() for found in (module._forward_hooks, module._forward_pre_hooks))


def inputs(count=5, seed=0):
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed))
