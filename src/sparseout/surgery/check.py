"""Check a model after surgery: run it once, and see which layers run and which calls of dropout remain."""

from __future__ import annotations

import contextlib
import copy
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
from sparseout.notebook import page
from sparseout.random_states import keep_random_states
from sparseout.surgery import edit

_CHANNELWISE = (nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")


class DropoutCall(NamedTuple):
    """A call of a dropout function: the name of the module that made it, the function, and its drop probability."""

    name: str
    function: str
    p: float


@dataclass(frozen=True, repr=False)
class SwapCheck:
    """The result of one forward pass in training mode.

    Attributes:
        ran: names of the Sparseout layers that ran.
        never_ran: names of the Sparseout layers that the model did not call.
        dropout: a `(name, function, p)` for each remaining call of dropout, by a module or a function. Calls inside code that
            `torch.jit` compiled, and inside kernels outside of PyTorch, are invisible.
        reinterpreted: names of layers that replace an `nn.Dropout1d`, `2d` or `3d` and share draws along other dimensions of
            their input. For example, `Sparseout2d` reads a 3-d input as `(C, H, W)`, and `nn.Dropout2d` as `(N, C, L)`. Pass
            `mapping={nn.Dropout2d: Sparseout1d}` to keep the old behaviour.
        readings: a sentence for each reinterpreted layer, with the shared dimensions of the old module and of the new layer.
    """

    ran: tuple[str, ...]
    never_ran: tuple[str, ...]
    dropout: tuple[DropoutCall, ...]
    reinterpreted: tuple[str, ...]
    readings: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether the model has Sparseout layers, all of them ran, and the check found nothing else."""
        return bool(self.ran) and not (self.never_ran or self.dropout or self.reinterpreted)

    def _repr_html_(self) -> str:
        head, *lines = repr(self).splitlines()
        rows = [("layer", "finding"), *(line.strip().split(": ", 1) for line in lines)]
        return page([head], rows if lines else [], [] if lines else ["nothing to fix"] if self.ok else ["no layer of Sparseout"])

    def __repr__(self) -> str:
        lines = [f"{len(self.ran)} of {len(self.ran) + len(self.never_ran)} Sparseout layers ran"]
        lines += [f"  {name}: never ran" for name in self.never_ran]
        lines += [f"  {name or 'the model'}: still calls {function} with p={p:g}" for name, function, p in self.dropout]
        lines += [f"  {name}: {reading}" for name, reading in zip(self.reinterpreted, self.readings, strict=True)]
        return "\n".join(lines)


def check_swap(model: nn.Module, example: Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any]) -> SwapCheck:
    """Run `model` on `example` once, in training mode and without gradients, and report which Sparseout layers ran.

    The check leaves no trace: it restores the training mode and the buffers of the model (such as BatchNorm's statistics), and
    the random states of torch, Python and NumPy. It runs a compiled model uncompiled.

    Args:
        model: a module with Sparseout layers, from surgery or its own.
        example: an input: a tensor, a tuple of positional arguments, a dict of keyword arguments, or a batch of a `DataLoader`,
            whose labels are left out. `sparseout.batches.arguments` documents each form.

    Returns:
        A `SwapCheck`. Its `ok` is True if there is nothing to fix.

    Raises:
        TypeError: `model` is not a `torch.nn.Module`, or `example` is none of the above.
        ValueError: `model` has lazy modules that were never called. Errors of the model itself pass through.

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
      the model: still calls dropout with p=0.2
    """
    names = {module: found[0] for module, found in edit.names_of(model).items()}
    args, kwargs = _arguments(model, example)
    if any(nn.parameter.is_lazy(x) for x in (*model.parameters(), *model.buffers())):
        raise ValueError("model must have no uninitialized lazy modules, got at least one: call the model once first")
    observer = _Observer(names)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_restored(model))
        for module in names:
            stack.callback(module.register_forward_pre_hook(observer.enter, with_kwargs=True).remove)
        stack.enter_context(_eager())
        model.train()
        with FunctionCalls({*DROPOUTS, *_RECURRENT}, names, observer.call):
            model(*args, **kwargs)
        readings = {names[layer]: reading for layer, dims in observer.dims if (reading := _other_reading(layer, dims))}
    layers = {module: name for module, name in names.items() if isinstance(module, Sparseout)}
    return SwapCheck(
        tuple(name for module, name in layers.items() if module in observer.ran),
        tuple(name for module, name in layers.items() if module not in observer.ran),
        tuple(dict.fromkeys(observer.calls)),
        tuple(readings),
        tuple(readings.values()),
    )


class _Observer:
    """Records the modules that run and the calls of torch that apply dropout."""

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
    """Return how `layer` and the module that it replaced share draws over a `dims`-d input; empty if they agree."""
    old: Any = copy.copy(layer.replaced[0])
    new = type(layer)(**layer.settings())
    old.p = new.p = 0.5
    new.generator = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of an unusual number of dimensions
        old_dims, new_dims = _shared_dims(old.train(), dims), _shared_dims(new, dims)
    if old_dims == new_dims:
        return ""
    old_reading = f"{type(old).__name__} shared draws along {_dims_text(old_dims)} of a {dims}-d input"
    return f"{old_reading}, {type(layer).__name__} along {_dims_text(new_dims)}"


def _shared_dims(layer: nn.Module, dims: int) -> list[int]:
    """Return the dimensions along which all elements of an output of `layer` are equal."""
    # Large enough that no dimension looks shared by chance.
    y = layer.forward(torch.ones((64 if dims < 3 else 8,) * dims))
    return [dim for dim in range(dims) if bool((y == y.narrow(dim, 0, 1)).all())]


def _dims_text(dims: list[int]) -> str:
    return f"dimension{'s' if len(dims) > 1 else ''} {', '.join(map(str, dims))}" if dims else "none"


def _drop_probability(function: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> float:
    """Return the drop probability of a call; 0 if it drops nothing."""
    if function in _RECURRENT:
        # The arguments after the first bool, `has_biases`, are the same for packed and padded inputs.
        has_biases = next(position for position, value in enumerate(args) if isinstance(value, bool))
        layers, p, training = args[has_biases + 1 : has_biases + 4]
        return float(p) if training and layers > 1 else 0.0
    p, training = DROPOUTS[function].read(args, kwargs)
    return float(p) if training or training is None else 0.0


def _arguments(model: nn.Module, example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if not isinstance(example, (Tensor, tuple, list, Mapping)):
        allowed = "a tensor, a tuple or dict of arguments, or a batch of a DataLoader"
        raise TypeError(f"example must be {allowed}, got {type(example).__name__}")
    return arguments(model, example)


@contextlib.contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Disable gradients; restore the training modes and buffers of `model` and all random states at the end."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(holder, name, x, x.clone()) for holder in model.modules() for name, x in holder.named_buffers(recurse=False)]
    with torch.no_grad(), keep_random_states(model):
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training
            for holder, name, buffer, value in buffers:
                setattr(holder, name, buffer)
                if not (buffer.is_meta or torch.equal(buffer, value)):
                    buffer.copy_(value)


def _eager() -> contextlib.AbstractContextManager[Any]:
    """Run compiled modules without their graphs, which ignore hooks that are added later."""
    compiled = "torch._dynamo" in sys.modules  # importing it takes seconds, and nothing is compiled without it
    return torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext()
