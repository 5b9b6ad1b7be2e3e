"""What a person may have meant by a class or a name that nothing in the model fits."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from sparseout.layers import Sparseout
from sparseout.surgery import edit

_MOST = 3

Names = Mapping[nn.Module, Sequence[str]]


def to_kinds(names: Names, kinds: tuple[type[nn.Module], ...], where: Any) -> str:
    """Why `insert_after` found none of `kinds`."""
    wanted = " or ".join(_short(kind) for kind in kinds)
    present = {module: each for module, each in names.items() if isinstance(module, kinds)}
    if present and all(isinstance(module, edit.Followed) for module in present):
        return f"each {wanted} of the model has a layer already"
    if present:
        return _missed(names, present, where, wanted)
    words = {kind.__name__.lower() for kind in kinds}
    examples = _by_class({module: each for module, each in names.items() if not isinstance(module, Sparseout)})
    chosen = sorted(examples, key=lambda kind: -max(_likeness(kind.__name__.lower(), word) for word in words))
    chosen = [kind for kind in chosen if max(_likeness(kind.__name__.lower(), word) for word in words) >= 0.6]
    if chosen:
        return f"no {wanted} in the model; closest: {_listed(chosen, examples)}"
    leaves = [kind for kind in examples if not any(type(module) is kind and module._modules for module in names)]
    others = ", ".join(kind.__name__ for kind in leaves) or "none"
    return f"no {wanted} in the model, nor a class of a similar name; its classes that hold no modules: {others}"


def to_dropout(names: Names, kinds: tuple[type[nn.Module], ...], where: Any) -> str:
    """Why `swap_dropout` found none of `kinds`."""
    wanted = "dropout module"
    present = {module: each for module, each in names.items() if isinstance(module, kinds)}
    if present:
        return _missed(names, present, where, wanted)
    if where is not None and isinstance(where, str) and not _fitting(names, where):
        return _missed(names, {}, where, wanted)
    layers = sum(isinstance(module, Sparseout) for module in names)
    if layers:
        return f"no {wanted} in the model, which has {layers} Sparseout layers already"
    examples = _by_class(names)
    chosen = [kind for kind in examples if "drop" in kind.__name__.lower() or "stochasticdepth" in kind.__name__.lower()]
    advice = "check_swap shows dropout that is called as a function, and insert_after puts layers behind activations"
    if chosen:
        return f"no {wanted} in the model; closest: {_listed(chosen, examples)}: mapping= takes further classes; {advice}"
    return f"no {wanted} in the model; {advice}"


def _missed(names: Names, present: Names, where: Any, wanted: str) -> str:
    """What `where` selects instead."""
    there = [name for each in present.values() for name in each]
    found = f"; {wanted} in the model: {_first(there)}" if there else ""
    if not isinstance(where, str):
        return f"where selects no {wanted}{found}" if where is not None else ""
    fitting = _fitting(names, where)
    if fitting:
        return f"where={where!r} selects no {wanted}, but {_first(fitting)}{found}"
    every = [name for each in names.values() for name in each if name]
    close = difflib.get_close_matches(where, there, _MOST, 0.5) or difflib.get_close_matches(where, every, _MOST, 0.5)
    return f"where={where!r} fits no name in the model{'; closest: ' + ', '.join(close) if close else found}"


def _fitting(names: Names, where: str) -> list[str]:
    return [name for each in names.values() for name in each if fnmatchcase(name, where)]


def _by_class(names: Names) -> dict[type[nn.Module], str]:
    """Each class with the name of its first module."""
    examples: dict[type[nn.Module], str] = {}
    for module, each in names.items():
        examples.setdefault(type(module), each[0])
    return examples


def _likeness(one: str, other: str) -> float:
    return 1.0 if other in one or one in other else difflib.SequenceMatcher(None, one, other).ratio()


def _listed(kinds: Sequence[type[nn.Module]], examples: Mapping[type[nn.Module], str]) -> str:
    return "; ".join(f"{kind.__name__} ({kind.__module__}), e.g. {examples[kind] or 'the model'}" for kind in kinds[:_MOST])


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
    return ", ".join(name or "the model" for name in names[:_MOST]) + more


def _short(kind: type[nn.Module]) -> str:
    return f"nn.{kind.__name__}" if kind.__module__.startswith("torch.nn.") else f"{kind.__module__}.{kind.__name__}"
