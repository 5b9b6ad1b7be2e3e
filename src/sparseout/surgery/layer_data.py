"""The settings of a layer as data that JSON can hold, and back. Only the library's own classes are built."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from sparseout import regularizers
from sparseout.checks import check_choice, check_shared_dims
from sparseout.layers import Sparseout
from sparseout.structured import LockedSparseout, Sparseout1d, Sparseout2d, Sparseout3d

# These hold weights of the model itself: their settings can be set, but surgery cannot add them to a model.
LINEAR: tuple[type[nn.Module], ...] = (regularizers.Bridgeout, regularizers.Shakeout)
KINDS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        *(Sparseout, Sparseout1d, Sparseout2d, Sparseout3d, LockedSparseout),
        *(regularizers.BatchKWinners, regularizers.DeCov, regularizers.HardConcrete, regularizers.HoyerSquare),
        *(regularizers.KLTarget, regularizers.KWinners, regularizers.L1, regularizers.LifetimeWinners),
        *(regularizers.Parsimonious, regularizers.Standout, regularizers.TransformedL1),
        *LINEAR,
    )
}
_NOT_SAVED = ("generator", "in_features", "out_features", "bias")
_TYPES = {"bool": (bool, "a bool"), "int": (int, "an integer")}  # by the annotation of a parameter
_RUNNING = ("running_rms", "running_moments")  # buffers that come and go with the scale

Names = Mapping[nn.Module, Sequence[str]]


def class_of(module: nn.Module) -> str:
    """Return the qualified name of the class of `module`."""
    return f"{type(module).__module__}.{type(module).__qualname__}"


def write_layer(layer: Any, names: Names) -> dict[str, Any]:
    """Return the name of the layer's class and the arguments that build an equal layer, except for the generator.

    Args:
        layer: an instance of one of `KINDS`.
        names: the modules of the model with their names. A layer may refer to one of them, as the reader of a penalty.
    """
    settings = {}
    for name in _parameters(type(layer)):
        value = getattr(layer, name)
        if isinstance(value, nn.Module):
            if value not in names:
                raise ValueError(
                    f"{name} of {type(layer).__name__} must be in the model, got a {type(value).__name__} outside of it"
                )
            value = names[value][0]
        settings[name] = list(value) if isinstance(value, tuple) else value
    return {"layer": type(layer).__name__, **settings}


def read_layer(at: str, record: Any, modules: Mapping[str, nn.Module]) -> Any:
    """Return a new layer with the settings of `record`, the result of `write_layer`. A layer of `LINEAR` has one unit.

    Args:
        at: the place of `record`, for error messages.
        modules: the modules of the model by name.
    """
    settings = dict(check_type(at, record, Mapping, "a dict with 'layer' and the settings of the layer"))
    kind = KINDS[check_choice(f"{at}['layer']", settings.pop("layer", None), tuple(KINDS))]
    if "generator" in settings:
        raise ValueError(f"{at} must not hold a generator, got {settings['generator']!r:.60}")
    allowed = _parameters(kind)
    for name in settings:
        if name not in allowed:
            raise ValueError(f"{at} must hold settings of {kind.__name__}, {', '.join(allowed)}, got {name!r:.60}")
    for name, parameter in allowed.items():
        if name in settings and parameter.annotation in _TYPES:
            check_type(f"{at}[{name!r}]", settings[name], *_TYPES[parameter.annotation])
    reader = settings.get("reader")
    if reader is not None:
        if not isinstance(reader, str) or reader not in modules:
            raise ValueError(f"{at}['reader'] must be None or the name of a module of the model, got {reader!r:.60}")
        settings["reader"] = modules[reader]
    try:
        layer = _build(kind, settings)
        if isinstance(layer, Sparseout):
            check_shared_dims(layer.shared_dims, sys.maxsize)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{at} must hold valid settings of {kind.__name__}: {error}".splitlines()[0]) from error
    return layer


def why_not_settable(layer: nn.Module, new: nn.Module) -> str:
    """Return why `layer` cannot get the settings of `new`, a layer of its class; empty if it can."""
    if getattr(layer, "batch_first", None) != getattr(new, "batch_first", None):
        return "batch_first differs"
    if isinstance(layer, LINEAR):
        return ""
    shapes, new_shapes = ({k: x.shape for k, x in each.state_dict().items() if k not in _RUNNING} for each in (layer, new))
    return "" if shapes == new_shapes else f"its tensors would be {_text(new_shapes)}, and are {_text(shapes)}"


def set_layer(layer: Any, new: Any) -> None:
    """Give `layer` the settings of `new`, a layer of its class with tensors of the same shapes."""
    # The gradient first: a running scale allows only one.
    for name in sorted(_parameters(type(new)), key=lambda name: name != "gradient"):
        if name == "reader":  # a module in an attribute would become a submodule
            layer._reader = new._reader
        elif name != "batch_first":
            setattr(layer, name, getattr(new, name))


def check_type(name: str, value: Any, kind: Any, allowed: str) -> Any:
    """Return `value`; raise unless it is an instance of `kind`, where True and False are no integers."""
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{name} must be {allowed}, got {value!r:.60}")
    return value


def _parameters(kind: type[nn.Module]) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(kind).parameters
    return {name: each for name, each in parameters.items() if name not in _NOT_SAVED}


def _build(kind: Any, settings: Mapping[str, Any]) -> nn.Module:
    layer: nn.Module
    with torch.random.fork_rng(devices=[]):  # a new layer may draw its parameters
        if kind in LINEAR:
            with torch.device("meta"):
                layer = kind(1, 1, **settings)
        else:
            layer = kind(**settings)
    return layer


def _text(shapes: Mapping[str, Sequence[int]]) -> str:
    return ", ".join(f"{name} {tuple(shape)}" for name, shape in shapes.items()) or "none"
