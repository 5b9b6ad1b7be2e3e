"""The functions of torch that activate or drop out, and a watcher of their calls while a model runs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Container, Mapping, Sequence
from types import FrameType
from typing import Any, NamedTuple

from torch import nn
from torch.overrides import TorchFunctionMode

# Names in torch, in torch.nn.functional and among the methods of tensors, without the trailing _ of in-place functions.
ACTIVATIONS = frozenset(
    (
        *("celu", "elu", "gelu", "glu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "mish", "prelu", "relu", "relu6"),
        *("rrelu", "selu", "sigmoid", "silu", "softmax", "softplus", "softsign", "tanh"),
    )
)


class DropoutArguments(NamedTuple):
    """The positions of a function's drop probability and training flag, and their defaults."""

    p_position: int
    p: float
    training_position: int
    training: bool

    def read(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
        """Return the drop probability and the training flag of a call."""
        p = kwargs.get("p", kwargs.get("dropout_p", args[self.p_position] if self.p_position < len(args) else self.p))
        training = args[self.training_position] if self.training_position < len(args) else self.training
        return p, kwargs.get("training", kwargs.get("train", training))


DROPOUTS: dict[str, DropoutArguments] = {
    **dict.fromkeys(("dropout", "dropout1d", "dropout2d", "dropout3d"), DropoutArguments(1, 0.5, 2, True)),
    **dict.fromkeys(("native_dropout", "feature_dropout"), DropoutArguments(1, 0.5, 2, True)),
    **dict.fromkeys(("alpha_dropout", "feature_alpha_dropout"), DropoutArguments(1, 0.5, 2, False)),
    "scaled_dot_product_attention": DropoutArguments(4, 0.0, sys.maxsize, True),  # has no training flag
    "multi_head_attention_forward": DropoutArguments(10, 0.0, 13, True),
}


class FunctionCalls(TorchFunctionMode):
    """A context in which `seen(module, name, args, kwargs)` is called for each call of a function in `functions`.

    Args:
        functions: names of functions of torch, without a trailing `_`.
        modules: the modules to attribute calls to: `module` is the innermost of them that runs. Calls outside them are ignored.
        seen: a function, called before the call itself.
    """

    def __init__(
        self,
        functions: Container[str],
        modules: Container[nn.Module],
        seen: Callable[[nn.Module, str, Sequence[Any], Mapping[str, Any]], None],
    ) -> None:
        super().__init__()
        self._functions, self._modules, self._seen = functions, modules, seen

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "").split(".")[0].rstrip("_")
        if name in self._functions and (module := self._running_module()) is not None:
            self._seen(module, name, args, kwargs)
        return func(*args, **kwargs)

    def _running_module(self) -> nn.Module | None:
        frame: FrameType | None = sys._getframe(2)
        while frame is not None:
            module = frame.f_locals.get("self")
            if isinstance(module, nn.Module) and module in self._modules:
                return module
            frame = frame.f_back
        return None
