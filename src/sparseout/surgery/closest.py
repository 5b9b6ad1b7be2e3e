"""Explains why surgery found nothing to change, with the closest classes and names in the model."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from sparseout.layers import Sparseout
from sparseout.surgery import edit

_MAX_LISTED = 3
_MIN_SIMILARITY = 0.6

Names = Mapping[nn.Module, Sequence[str]]


def explain_no_kind(names: Names, kinds: tuple[type[nn.Module], ...], where: Any) -> str:
    """Return why `insert_after` selected no module of `kinds`."""
    wanted = " or ".join(_class_name(kind) for kind in kinds)
    present = {module: each for module, each in names.items() if isinstance(module, kinds)}
    if present and all(isinstance(module, edit.WithSparseout) for module in present):
        return f"every {wanted} in the model already has a layer"
    if present:
        return _explain_selection(names, present, where, wanted)
    examples = _examples_by_class({module: each for module, each in names.items() if not isinstance(module, Sparseout)})
    similarity = {kind: max(_similarity(kind.__name__, other.__name__) for other in kinds) for kind in examples}
    closest = [kind for kind in sorted(examples, key=lambda kind: -similarity[kind]) if similarity[kind] >= _MIN_SIMILARITY]
    if closest:
        return f"the model has no {wanted}; closest: {_list_classes(closest, examples)}"
    leaves = [kind for kind in examples if not any(type(module) is kind and module._modules for module in names)]
    others = ", ".join(kind.__name__ for kind in leaves) or "none"
    return f"the model has no {wanted} and no class with a similar name; its classes without submodules: {others}"


def explain_no_block(names: Names) -> str:
    """Return why `insert_after` with `where="mlp"` selected no feed-forward block."""
    if any(isinstance(module, edit.WithSparseoutBefore) for module in names):
        return "every feed-forward block in the model already has a layer"
    return (
        "the model has no feed-forward block: linear layers from d to h > d units, an activation, and a linear layer back to d; "
        "to choose activations yourself, pass their class as kind"
    )


def explain_no_dropout(names: Names, kinds: tuple[type[nn.Module], ...], where: Any) -> str:
    """Return why `swap_dropout` selected no module of `kinds`."""
    wanted = "dropout module"
    present = {module: each for module, each in names.items() if isinstance(module, kinds)}
    if present or (isinstance(where, str) and not _matches(names, where)):
        return _explain_selection(names, present, where, wanted)
    layers = sum(isinstance(module, Sparseout) for module in names)
    if layers:
        return f"the model has no {wanted}, but already {layers} Sparseout layers"
    examples = _examples_by_class(names)
    closest = [kind for kind in examples if "drop" in kind.__name__.lower() or "stochasticdepth" in kind.__name__.lower()]
    advice = "check_swap finds calls of functional dropout, and insert_after puts layers after activations"
    if closest:
        return f"the model has no {wanted}; closest: {_list_classes(closest, examples)}; mapping= adds classes; {advice}"
    return f"the model has no {wanted}; {advice}"


def _explain_selection(names: Names, present: Names, where: Any, wanted: str) -> str:
    """Return why `where` selects none of the modules in `present`."""
    candidates = [name for each in present.values() for name in each]
    found = f"; {wanted} in the model: {_list_names(candidates)}" if candidates else ""
    if not isinstance(where, str):
        return f"where selects no {wanted}{found}" if where is not None else ""
    matches = _matches(names, where)
    if matches:
        return f"where={where!r} selects no {wanted}, only {_list_names(matches)}{found}"
    every = [name for each in names.values() for name in each if name]
    close = next(filter(None, (difflib.get_close_matches(where, each, _MAX_LISTED, 0.5) for each in (candidates, every))), [])
    return f"where={where!r} matches no name in the model{'; closest: ' + ', '.join(close) if close else found}"


def _matches(names: Names, where: str) -> list[str]:
    return [name for each in names.values() for name in each if fnmatchcase(name, where)]


def _examples_by_class(names: Names) -> dict[type[nn.Module], str]:
    """Return each class with the name of its first module."""
    examples: dict[type[nn.Module], str] = {}
    for module, each in names.items():
        examples.setdefault(type(module), each[0])
    return examples


def _similarity(name: str, other: str) -> float:
    """Return a similarity in [0, 1] of two class names: 1 if one is part of the other."""
    name, other = name.lower(), other.lower()
    return 1.0 if other in name or name in other else difflib.SequenceMatcher(None, name, other).ratio()


def _list_classes(kinds: Sequence[type[nn.Module]], examples: Mapping[type[nn.Module], str]) -> str:
    listed = kinds[:_MAX_LISTED]
    return "; ".join(f"{kind.__name__} ({kind.__module__}), e.g. {examples[kind] or 'the model'}" for kind in listed)


def _list_names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(name or "the model" for name in names[:_MAX_LISTED]) + more


def _class_name(kind: type[nn.Module]) -> str:
    return f"nn.{kind.__name__}" if kind.__module__.startswith("torch.nn.") else f"{kind.__module__}.{kind.__name__}"
