"""Activations that no module carries: a hook never meets them, so they are named."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

from torch import nn
from torch.overrides import TorchFunctionMode

from sparseout.probe.selection import is_default

# Of torch, of torch.nn.functional and of tensors; a trailing _ is not written.
_ACTIVATIONS = (
    *("celu", "elu", "gelu", "glu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "mish", "prelu", "relu", "relu6"),
    *("rrelu", "selu", "sigmoid", "silu", "softmax", "softplus", "softsign", "tanh"),
)
_DROPOUTS = ("alpha_dropout", "dropout", "dropout1d", "dropout2d", "dropout3d", "feature_alpha_dropout")
_ATTENTION = ("multi_head_attention_forward", "scaled_dot_product_attention")
_FUNCTIONS = frozenset((*_ACTIVATIONS, *_DROPOUTS, *_ATTENTION))


class FunctionalCalls(TorchFunctionMode):
    """While it is entered, notes which modules of `names` call an activation or a dropout as a function.

    Attributes:
        found: the functions' names by the module's.
    """

    def __init__(self, names: Mapping[int, str]) -> None:
        super().__init__()
        self._names = names
        self.found: dict[str, set[str]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "").removesuffix("_")
        if name in _FUNCTIONS:
            caller = _calling_module()
            if caller is not None and id(caller) in self._names and not is_default(caller):
                self.found.setdefault(self._names[id(caller)], set()).add(name)
        return func(*args, **(kwargs or {}))


def _calling_module() -> nn.Module | None:
    """The module whose method runs, going out from here."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if isinstance(module := frame.f_locals.get("self"), nn.Module):
            return module
        frame = frame.f_back
    return None
