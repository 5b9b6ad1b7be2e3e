"""Who drives a layer: one `SparsityTarget` at a time."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

from torch import nn

# Both sides are weak: a layer or a `SparsityTarget` that is deleted leaves no entry, and a copy of a layer has none.
_DRIVERS: weakref.WeakKeyDictionary[nn.Module, weakref.ref[Any]] = weakref.WeakKeyDictionary()


def claim(modules: Mapping[str, nn.Module], driver: object) -> None:
    """Make `driver` the one that drives these modules, or raise a `ValueError` where another drives one of them."""
    for name, module in modules.items():
        other = _DRIVERS[module]() if module in _DRIVERS else None
        if other is not None and other is not driver:
            raise ValueError(
                f"layers must be driven by one SparsityTarget at a time, and {name or 'the model'} has one already: "
                "call stop() on that one first, or delete it"
            )
    for module in modules.values():
        _DRIVERS[module] = weakref.ref(driver)


def release(modules: Mapping[str, nn.Module], driver: object) -> None:
    """Let others drive the modules that `driver` drove."""
    for module in modules.values():
        if module in _DRIVERS and _DRIVERS[module]() is driver:
            del _DRIVERS[module]
