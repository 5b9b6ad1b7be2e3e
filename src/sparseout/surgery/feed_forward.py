"""The feed-forward blocks of a transformer, found by their structure. The model does not run."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from torch import nn

from sparseout.activations import is_activation
from sparseout.function_calls import ACTIVATIONS
from sparseout.surgery import edit
from sparseout.surgery.report import Unreachable

_IN_ATTENTION = {"softmax", "sigmoid"}
_CALL = re.compile(r"(\w+)\(")
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)

Names = Mapping[nn.Module, Sequence[str]]


class Block(NamedTuple):
    """A feed-forward block: the linear layer that reads its hidden units, the names of this layer, and why it was chosen."""

    reader: nn.Module
    names: list[str]
    reason: str


def find_blocks(all_names: Names) -> tuple[list[Block], list[Unreachable]]:
    """Return the feed-forward blocks of a model, and what looks like one and was left out.

    A block has linear layers from `d` to `h` or `2 h` units (two of them, or a fused one, if it is gated), an activation
    function, and a later linear layer from `h` back to `d < h` units: the reader. They belong to the smallest module that holds
    both. Linear layers are those of torch and `Conv1D` of `transformers`.

    Args:
        all_names: each module of the model with all its names.
    """
    modules = {name: module for module, names in all_names.items() for name in names}
    order = {module: position for position, module in enumerate(all_names)}
    blocks: list[Block] = []
    left_out: list[Unreachable] = []
    for module, names in all_names.items():
        if _holds_experts(module):
            left_out.append(Unreachable(names[0], f"{type(module).__name__} holds its weights itself, without linear layers"))
        sizes = _sizes(module)
        if sizes is None or sizes[0] <= sizes[1] or isinstance(module, edit.WithSparseout):
            continue
        hidden, units = sizes
        for holder_name in _ancestors(names[0]):
            holder = modules[holder_name]
            first = [
                each
                for each in holder.modules()
                if order[each] < order[module] and _sizes(each) in ((units, hidden), (units, 2 * hidden))
            ]
            if first:
                activation = _activation_of(holder)
                reason = _why_not(module, modules[names[0].rpartition(".")[0]], holder, activation)
                widening = " and ".join(_relative(all_names[each][0], holder_name) for each in first)
                widths = f"{units} -> {hidden} -> {units}"
                if reason:
                    left_out.append(Unreachable(names[0], f"reads {widening} ({widths}), but {reason}"))
                else:
                    blocks.append(Block(module, list(names), f"{activation} of {widening} ({widths})"))
                break
    return blocks, left_out


def _why_not(reader: nn.Module, parent: nn.Module, holder: nn.Module, activation: str) -> str:
    kind = type(reader).__name__
    if not activation:
        return f"{type(holder).__name__} has no activation function that is known: it may be attention"
    if any(isinstance(each, _CONVOLUTIONS) for each in holder.modules()):
        return f"{type(holder).__name__} has a convolution: it may be another kind of block"
    if hasattr(parent, "in_features"):
        return f"{type(parent).__name__} wraps this layer: change the model before"
    if "forward" in vars(reader):
        return f"this {kind} has a forward of its own"
    return f"{kind} has its own attribute {edit.INSERTED!r}" if hasattr(reader, edit.INSERTED) else ""


def _sizes(module: nn.Module) -> tuple[int, int] | None:
    """Return the numbers of input and output units of a linear layer; None for any other module."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    weight = getattr(module, "weight", None)
    if type(module).__name__ == "Conv1D" and isinstance(weight, nn.Parameter):
        inputs, outputs = weight.shape  # transposed, unlike that of nn.Linear
        return inputs, outputs
    return None


def _ancestors(name: str) -> Iterator[str]:
    """Yield the names of the modules that hold `name`, the innermost first and the model (`""`) last."""
    while name:
        name = name.rpartition(".")[0]
        yield name


def _relative(name: str, holder: str) -> str:
    return name.removeprefix(f"{holder}.") if holder else name


def _activation_of(holder: nn.Module) -> str:
    """Return the name of the activation function in `holder`: a module, an attribute, or a call in its `forward`; or nothing."""
    kinds = [type(each).__name__ for each in holder.modules() if is_activation(each)]
    functions = [getattr(value, "__name__", "") for value in vars(holder).values()]
    try:
        called = _CALL.findall(inspect.getsource(type(holder).forward))
    except (OSError, TypeError):
        called = []
    wanted = ACTIVATIONS - _IN_ATTENTION
    return next((name for name in (*kinds, *(each for each in (*functions, *called) if each in wanted))), "")


def _holds_experts(module: nn.Module) -> bool:
    """Whether `module` holds the weights of several experts in two or more parameters."""
    weights = [each for each in module._parameters.values() if each is not None and each.dim() == 3 and len(each) > 1]
    return len(weights) > 1
