"""Which `SparsityTarget` controls a layer: at most one at a time."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

from torch import nn

# Weak on both sides: a deleted layer or `SparsityTarget` leaves no entry, and a copied layer has none.
_OWNERS: weakref.WeakKeyDictionary[nn.Module, weakref.ref[Any]] = weakref.WeakKeyDictionary()


def claim(modules: Mapping[str, nn.Module], owner: object) -> None:
    """Register `owner` as the controller of all `modules`, or raise a `ValueError` if one has another owner."""
    for name, module in modules.items():
        other = _OWNERS[module]() if module in _OWNERS else None
        if other is not None and other is not owner:
            raise ValueError(
                f"layers must have no other SparsityTarget, but {name or 'the model'} already has one: "
                "call its stop() first, or delete it"
            )
    for module in modules.values():
        _OWNERS[module] = weakref.ref(owner)


def release(modules: Mapping[str, nn.Module], owner: object) -> None:
    """Remove `owner` from the modules that it controls."""
    for module in modules.values():
        if module in _OWNERS and _OWNERS[module]() is owner:
            del _OWNERS[module]
