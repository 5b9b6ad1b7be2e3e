"""What a batch means: the arguments with which a model is called on it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.nn.utils.rnn import PackedSequence

from sparseout.torch_internals import uncompiled


def arguments(model: nn.Module, batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """`(args, kwargs)`, so that `model(*args, **kwargs)` is the model's call on `batch`.

    `check_swap`, the `loader` of a `SparsityTarget` and the batches of `sparseout probe` all mean the same:

    - a mapping: its items by name;
    - a tuple: positional arguments, in their order. Items beyond those that `model.forward` takes, such as labels, are left out;
    - a list, as a `DataLoader` makes of samples `(inputs, label)`: as a tuple, but without a value for an argument that has a
      default, which might be a label. The first item is always taken;
    - anything else, such as a tensor or a packed sequence: the one argument.

    So of `(x, y)`, a model of one input takes `x`, and a model of two takes both. Where a model takes an optional argument, such
    as a mask, a mapping is the clearest.

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
    """How many positional arguments a model's `forward` requires, and how many it takes at most."""
    model = uncompiled(model)
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):  # a scripted module
        return 1, sys.maxsize
    any_number = any(each.kind is each.VAR_POSITIONAL for each in parameters)
    places = [each for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    inner = getattr(model, "module", None)
    if any_number and not places and isinstance(inner, nn.Module):  # DataParallel and its like
        return _positional(inner)
    return sum(each.default is each.empty for each in places), sys.maxsize if any_number else len(places)
