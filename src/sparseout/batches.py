"""Turns a batch into the arguments of a model's call."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.nn.utils.rnn import PackedSequence

from sparseout.torch_internals import uncompiled


def arguments(model: nn.Module, batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return `(args, kwargs)` such that `model(*args, **kwargs)` is the model's call on `batch`.

    `check_swap`, the `loader` of a `SparsityTarget` and the batches of `sparseout probe` all follow these rules:

    - a mapping gives keyword arguments;
    - a tuple gives positional arguments in its order, without the items beyond the parameters of `model.forward`, such as labels;
    - a list, which a `DataLoader` makes of samples `(inputs, label)`, is like a tuple, but gives no value to a parameter with a
      default, since the item might be a label. The first item is always used;
    - anything else, such as a tensor or a packed sequence, is the only argument.

    So a model with one input is called with `x` of `(x, y)`, and a model with two inputs with both. If a model has optional
    arguments, such as a mask, a mapping is clearest.

    >>> arguments(nn.Linear(2, 2), ("x", "y"))
    (('x',), {})
    >>> arguments(nn.Bilinear(2, 2, 2), ("x", "y"))
    (('x', 'y'), {})
    >>> lstm = nn.LSTM(2, 2)  # forward(input, hx=None)
    >>> arguments(lstm, ("x", "hx")), arguments(lstm, ["x", "y"]), arguments(lstm, {"input": "x"})
    ((('x', 'hx'), {}), (('x',), {}), ((), {'input': 'x'}))
    """
    if isinstance(batch, Mapping):
        return (), dict(batch)
    if isinstance(batch, (tuple, list)) and not isinstance(batch, PackedSequence):
        required, most = _positional(model)
        return tuple(batch[: most if isinstance(batch, tuple) else max(1, required)]), {}
    return (batch,), {}


def _positional(model: nn.Module) -> tuple[int, int]:
    """Return the number of positional arguments that a model's `forward` requires, and the largest number that it accepts."""
    model = uncompiled(model)
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):  # a scripted module
        return 1, sys.maxsize
    any_number = any(each.kind is each.VAR_POSITIONAL for each in parameters)
    positional = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    inner = getattr(model, "module", None)
    if any_number and not positional and isinstance(inner, nn.Module):  # a wrapper such as DataParallel
        return _positional(inner)
    return sum(each.default is each.empty for each in positional), sys.maxsize if any_number else len(positional)
