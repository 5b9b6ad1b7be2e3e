"""The selection of modules to measure, of the value to measure in each, and of the dimensions that hold the units."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal

from torch import nn

from sparseout.activations import is_activation
from sparseout.layers import Sparseout

Selector = str | type[nn.Module] | Callable[[str, nn.Module], bool]
Layers = Selector | Sequence[Selector] | None
UnitDim = int | Sequence[int]
Value = Literal["output", "clean input"]

_DROPOUTS = (Sparseout, nn.modules.dropout._DropoutNd)
_RECURRENT = (nn.RNNBase, nn.RNNCellBase)
_UNITS_LAST = (nn.Linear, nn.Embedding, nn.LayerNorm, nn.MultiheadAttention, nn.Flatten, *_RECURRENT)


@dataclasses.dataclass(frozen=True)
class Layer:
    """A selected module.

    Attributes:
        name: the module's path in the model; `""` for the model itself.
        module: the module.
        value: the measured value: the clean input of a Dropout or Sparseout layer, the output of any other module.
        spatial_dims: the number of spatial dimensions after the channels if the module belongs to a convolution, otherwise 0.
        unit_dim: the dimensions requested by the user, if any.
    """

    name: str
    module: nn.Module
    value: Value
    spatial_dims: int
    unit_dim: tuple[int, ...] | None

    def dims(self, ndim: int) -> tuple[int, ...]:
        """Return the dimensions that hold the units, in a value of `ndim` dimensions."""
        if self.unit_dim is not None:
            return self.unit_dim
        return (-(self.spatial_dims + 1),) if self.spatial_dims and ndim == self.spatial_dims + 2 else (-1,)

    @property
    def units(self) -> str:
        """The dimensions that hold the units, in words."""
        if self.unit_dim is not None:
            return "dimension " + ", ".join(map(str, self.unit_dim))
        return f"channels (of a {self.spatial_dims + 2}-D value)" if self.spatial_dims else "last dimension"


def select_layers(model: nn.Module, layers: Layers, unit_dim: UnitDim | Mapping[str, UnitDim] | None) -> list[Layer]:
    """Return the modules of `model` that `layers` selects, in the order of registration.

    Raises:
        ValueError: a selector or a pattern of `unit_dim` matches no module, or no module is selected.
        TypeError: a selector has an unsupported type.
    """
    modules = dict(model.named_modules())
    chosen = _selected(modules, layers)
    dims = _unit_dims(modules, unit_dim)
    spatial = dict(_spatial_dims(modules))
    return [
        Layer(name, module, "clean input" if isinstance(module, _DROPOUTS) else "output", spatial[name], dims.get(name))
        for name, module in modules.items()
        if name in chosen
    ]


def is_activation_or_dropout(module: nn.Module) -> bool:
    """Return whether a module is an activation function, a Dropout or a Sparseout layer."""
    return isinstance(module, _DROPOUTS) or is_activation(module)


def is_default(module: nn.Module) -> bool:
    """Return whether a module is measured by default: activation functions, Dropout, Sparseout and recurrent layers."""
    return isinstance(module, _RECURRENT) or is_activation_or_dropout(module)


def _selected(modules: Mapping[str, nn.Module], layers: Layers) -> set[str]:
    if layers is None:
        chosen = {name for name, module in modules.items() if is_default(module)}
        if not chosen:
            kinds = ", ".join(sorted({type(module).__name__ for module in modules.values()}))
            raise ValueError(
                "the model has no activation function, dropout or recurrent layer that is a module: "
                f"select layers with layers=, of the types {kinds}"
            )
        return chosen
    selectors = list(layers) if isinstance(layers, Sequence) and not isinstance(layers, str) else [layers]
    if not selectors:
        raise ValueError("layers must name at least one layer, got an empty sequence")
    return {name for selector in selectors for name in _matches(modules, selector)}


def _matches(modules: Mapping[str, nn.Module], selector: Selector) -> list[str]:
    """Return the names of the modules that a selector matches, at least one."""
    if isinstance(selector, str):
        return _named(modules, selector, "layers")
    if isinstance(selector, type):
        matches = [name for name, module in modules.items() if isinstance(module, selector)]
        if not matches:
            kinds = {type(module).__name__ for module in modules.values()}
            raise ValueError(f"layers={selector.__name__} matches no module{_hint(selector.__name__, kinds)}")
        return matches
    if not callable(selector):
        raise TypeError(f"layers must be names, types or predicates of (name, module), got {selector!r}")
    matches = [name for name, module in modules.items() if selector(name, module)]
    if not matches:
        raise ValueError(f"layers={getattr(selector, '__name__', selector)} matches no module")
    return matches


def _named(modules: Mapping[str, nn.Module], pattern: str, argument: str) -> list[str]:
    matches = [name for name in modules if fnmatch.fnmatchcase(name, pattern)]
    if not matches:
        raise ValueError(f"{argument}={pattern!r} matches no module{_hint(pattern, modules)}")
    return matches


def _hint(wanted: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(wanted, [name for name in names if name], n=3, cutoff=0.4)
    return f": the closest names are {', '.join(map(repr, close))}" if close else ""


def _unit_dims(modules: Mapping[str, nn.Module], unit_dim: UnitDim | Mapping[str, UnitDim] | None) -> dict[str, tuple[int, ...]]:
    if unit_dim is None:
        return {}
    by_pattern = unit_dim if isinstance(unit_dim, Mapping) else {"*": unit_dim}
    result: dict[str, tuple[int, ...]] = {}
    for pattern, value in by_pattern.items():
        dims = (value,) if isinstance(value, int) else tuple(value)
        if not dims or not all(isinstance(dim, int) and not isinstance(dim, bool) for dim in dims):
            raise TypeError(f"unit_dim must be integers, or a mapping from names to integers, got {value!r}")
        result |= dict.fromkeys(_named(modules, pattern, "unit_dim"), dims)
    return result


def _spatial_dims(modules: Mapping[str, nn.Module]) -> Iterator[tuple[str, int]]:
    """Yield the spatial dimensions of each module: its own, or else those of the nearest module before it (or first after it)."""
    own = {name: _layout(module) for name, module in modules.items()}
    current = next((layout for layout in own.values() if layout is not None), 0)
    for name, layout in own.items():
        current = current if layout is None else layout
        yield name, current


def _layout(module: nn.Module) -> int | None:
    """Return the number of spatial dimensions: 0 if the units are last, None for a module that accepts any layout."""
    if isinstance(module, _UNITS_LAST):
        return 0
    names = (kind.__name__ for kind in type(module).__mro__)
    return next((int(found[1]) for found in (re.search(r"([123])d$", name) for name in names) if found), None)
