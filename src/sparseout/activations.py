"""Which modules are activation functions."""

from __future__ import annotations

import re

from torch import nn

_FILES = ("torch.nn.modules.activation", "transformers.activations")
_NAMES = re.compile("relu|gelu|selu|celu|silu|swish|mish|sigmoid|tanh|softplus|softmax|glu$|activation", re.IGNORECASE)


def is_activation(module: nn.Module) -> bool:
    """Return whether a module is an activation function of torch or `transformers`, or is named like one and has no children."""
    if isinstance(module, nn.MultiheadAttention):
        return False
    kind = type(module)
    return kind.__module__ in _FILES or (not any(True for _ in module.children()) and bool(_NAMES.search(kind.__name__)))
