"""Whether the layers of a changed model run, and what else still drops out: one forward pass in training mode, watched."""

from __future__ import annotations

import contextlib
import copy
import random
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sparseout.batches import arguments
from sparseout.function_calls import DROPOUTS, FunctionCalls
from sparseout.layers import Sparseout
from sparseout.surgery import edit

_CHANNELWISE = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")


class DropoutCall(NamedTuple):
    """A call that dropped out: the module that it was made in, the function, and its drop probability."""

    name: str
    function: str
    p: float


@dataclass(frozen=True, repr=False)
class SwapCheck:
    """What one forward pass in training mode showed.

    Attributes:
        ran: names of the Sparseout layers that ran.
        never_ran: names of those that did not: they are in the model, and it does not call them.
        dropout: a `(name, function, p)` for each place where dropout still runs, in a module or as a function. Inside what
            `torch.jit` compiled and in kernels that are not PyTorch's it cannot be seen.
        reinterpreted: names of layers in the place of `nn.Dropout1d`, `2d` or `3d` that share their draws along other dimensions
            of their input than the old module did: for `Sparseout2d` a 3-d input is `(C, H, W)`, for `nn.Dropout2d` `(N, C, L)`.
            `mapping={nn.Dropout2d: Sparseout1d}` does what the old one did.
        readings: for each of these, what both did with the number of dimensions that it was given, in words.
    """

    ran: tuple[str, ...]
    never_ran: tuple[str, ...]
    dropout: tuple[DropoutCall, ...]
    reinterpreted: tuple[str, ...]
    readings: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether a layer ran, all did, and nothing else is to be said."""
        return bool(self.ran) and not (self.never_ran or self.dropout or self.reinterpreted)

    def __repr__(self) -> str:
        lines = [f"{len(self.ran)} of {len(self.ran) + len(self.never_ran)} Sparseout layers ran"]
        lines += [f"  {name}: never ran" for name in self.never_ran]
        lines += [f"  {name or 'the model'}: {function} still drops out, p={p:g}" for name, function, p in self.dropout]
        lines += [f"  {name}: {reading}" for name, reading in zip(self.reinterpreted, self.readings, strict=True)]
        return "\n".join(lines)


def check_swap(model: nn.Module, example: Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any]) -> SwapCheck:
    """Run `model` on `example` once in training mode and without gradients, and say which of its Sparseout layers ran.

    Afterwards the model is in the mode that it was in, and its buffers (BatchNorm's statistics) and the random states of torch,
    Python and NumPy are what they were. A compiled model is run uncompiled.

    Args:
        model: with Sparseout layers, however they came there.
        example: its input: a tensor, a tuple of positional arguments, a dict of keyword arguments, or a batch of a `DataLoader`,
            whose labels are left out: `sparseout.batches.arguments` says how each is read.

    Returns:
        A `SwapCheck`: `ran`, `never_ran`, `dropout`, `reinterpreted`, and `ok` if there is nothing to mend.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: `model` has lazy modules that were never called. What the model itself raises passes through.

    >>> import sparseout
    >>> class Net(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.drop, self.unused = nn.Dropout(0.1), nn.Dropout(0.1)
    ...     def forward(self, x):
    ...         return nn.functional.dropout(self.drop(x), 0.2, self.training)
    >>> check_swap(sparseout.swap_dropout(Net(), q=1.5).model, torch.ones(2, 3))
    1 of 2 Sparseout layers ran
      unused: never ran
      the model: dropout still drops out, p=0.2
    """
    names = {module: found[0] for module, found in edit.names_of(model).items()}
    args, kwargs = _arguments(model, example)
    if any(nn.parameter.is_lazy(x) for x in (*model.parameters(), *model.buffers())):
        raise ValueError("model must know its shapes, got one with lazy modules: call it once first")
    watch = _Watch(names)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_unchanged(model))
        for module in names:
            stack.callback(module.register_forward_pre_hook(watch.enter, with_kwargs=True).remove)
        stack.enter_context(_eager())
        model.train()
        with FunctionCalls({*DROPOUTS, *_RECURRENT}, names, watch.call):
            model(*args, **kwargs)
        readings = {names[layer]: words for layer, dims in watch.dims if (words := _other_reading(layer, dims))}
    layers = {module: name for module, name in names.items() if isinstance(module, Sparseout)}
    return SwapCheck(
        tuple(name for module, name in layers.items() if module in watch.ran),
        tuple(name for module, name in layers.items() if module not in watch.ran),
        tuple(dict.fromkeys(watch.calls)),
        tuple(readings),
        tuple(readings.values()),
    )


class _Watch:
    """Sees which modules run, and each call of torch that drops out."""

    def __init__(self, names: Mapping[nn.Module, str]) -> None:
        self.names = names
        self.ran: set[nn.Module] = set()
        self.calls: list[DropoutCall] = []
        self.dims: dict[tuple[Sparseout, int], None] = {}

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.ran.add(module)
        if isinstance(module, Sparseout) and module.replaced and isinstance(module.replaced[0], _CHANNELWISE):
            self.dims.update({(module, x.dim()): None for x in (*args, *kwargs.values()) if isinstance(x, Tensor)})

    def call(self, module: nn.Module, function: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        if p := _drop_probability(function, args, kwargs):
            self.calls.append(DropoutCall(self.names[module], function, p))


def _other_reading(layer: Sparseout, dims: int) -> str:
    """How `layer` and the module that it replaced share draws over an input of `dims` dimensions; empty if alike."""
    old: Any = copy.copy(layer.replaced[0])
    new = type(layer)(**layer.settings())
    old.p = new.p = 0.5
    new.generator = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's of an unusual number of dimensions
        theirs, ours = _shared_dims(old.train(), dims), _shared_dims(new, dims)
    if theirs == ours:
        return ""
    its, place = type(old).__name__, type(layer).__name__
    return f"{its} shared draws along {_in_words(theirs)} of a {dims}-d input, {place} along {_in_words(ours)}"


def _shared_dims(layer: nn.Module, dims: int) -> list[int]:
    """The dimensions along which all elements of a draw are alike."""
    # Enough elements that no chance makes a dimension look shared.
    y = layer.forward(torch.ones((64 if dims < 3 else 8,) * dims))
    return [dim for dim in range(dims) if bool((y == y.narrow(dim, 0, 1)).all())]


def _in_words(dims: list[int]) -> str:
    return f"dimension{'s' if len(dims) > 1 else ''} {', '.join(map(str, dims))}" if dims else "none"


def _drop_probability(function: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> float:
    """The probability with which a call drops out; 0 if it does not."""
    if function in _RECURRENT:
        # The flag before the number of layers is the first bool, whether the input is packed or not.
        flag = next(place for place, value in enumerate(args) if isinstance(value, bool))
        layers, p, training = args[flag + 1 : flag + 4]
        return float(p) if training and layers > 1 else 0.0
    p, training = DROPOUTS[function].read(args, kwargs)
    return float(p) if training or training is None else 0.0


def _arguments(model: nn.Module, example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if not isinstance(example, (Tensor, tuple, list, Mapping)):
        kinds = "a tensor, a tuple of arguments or a dict of them, or a DataLoader's list"
        raise TypeError(f"example must be {kinds}, got {type(example).__name__}")
    return arguments(model, example)


@contextlib.contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """Without gradients; gives back the modes and buffers of `model` and the random states as they are now."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(holder, name, x, x.clone()) for holder in model.modules() for name, x in holder.named_buffers(recurse=False)]
    generators = {layer.generator for layer in model.modules() if isinstance(layer, Sparseout) and layer.generator is not None}
    states = [(generator, generator.get_state()) for generator in generators]
    python, numpy = random.getstate(), sys.modules.get("numpy")
    numpys = numpy.random.get_state() if numpy else None
    devices = {x.device for x in (*model.parameters(), *model.buffers()) if x.device.type not in ("cpu", "meta")}
    with torch.no_grad(), torch.random.fork_rng(devices=[]), contextlib.ExitStack() as stack:
        for device in devices:
            stack.enter_context(torch.random.fork_rng(devices=[device.index], device_type=device.type))
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training
            for holder, name, buffer, value in buffers:
                setattr(holder, name, buffer)
                if not (buffer.is_meta or torch.equal(buffer, value)):
                    buffer.copy_(value)
            for generator, state in states:
                generator.set_state(state)
            random.setstate(python)
            if numpy:
                numpy.random.set_state(numpys)


def _eager() -> contextlib.AbstractContextManager[Any]:
    # A compiled graph would not run hooks that were added to its modules later.
    compiles = "torch._dynamo" in sys.modules
    return torch.compiler.set_stance("force_eager") if compiles else contextlib.nullcontext()
