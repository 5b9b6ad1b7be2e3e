"""What surgery changed, as a record that can be read, saved and applied again."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from torch import nn

from sparseout.checks import check_choice
from sparseout.layers import LockedSparseout, Sparseout, Sparseout1d, Sparseout2d, Sparseout3d
from sparseout.surgery import edit

Action = Literal["swap", "insert"]

_LAYERS = {kind.__name__: kind for kind in (Sparseout, Sparseout1d, Sparseout2d, Sparseout3d, LockedSparseout)}


class Change(NamedTuple):
    """One name in the model: the module there before, and the layer that took its place or acts on its output."""

    name: str
    old: nn.Module
    new: Sparseout


class Unreachable(NamedTuple):
    """A module whose dropout cannot be swapped, or which no layer can be put behind, and why."""

    name: str
    reason: str


@dataclass(frozen=True, repr=False)
class SwapReport:
    """What `swap_dropout` or `insert_after` did.

    Attributes:
        model: the changed model: the one that was given if in place, else a copy.
        action: `"swap"`, or `"insert"`.
        changes: a `(name, old, new)` for each changed name. A module that goes by several names has one `new`.
        unreachable: a `(name, reason)` for each module that was left although it drops out by itself.

    >>> import sparseout
    >>> model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1), nn.LSTM(4, 4, 2, dropout=0.2))
    >>> report = sparseout.swap_dropout(model, q=1.5)
    >>> report
    1 swapped
      1: Dropout(p=0.1, inplace=False) -> Sparseout(p=0.1, q=1.5)
    1 not reached
      2: LSTM drops out between its layers in one call of torch
    """

    model: nn.Module
    action: Action
    changes: tuple[Change, ...]
    unreachable: tuple[Unreachable, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The report without its modules, in types that JSON has: what `surgery.apply_report` takes.

        >>> import sparseout
        >>> sparseout.swap_dropout(nn.Sequential(nn.Dropout(0.1)), q=1.5).to_dict()["changes"]  # doctest: +ELLIPSIS
        [{'name': '0', 'old': 'torch.nn.modules.dropout.Dropout', 'new': {'layer': 'Sparseout', 'p': 0.1, 'q': 1.5, ...}}]
        """
        return {
            "action": self.action,
            "changes": [{"name": name, "old": class_of(old), "new": _write(new)} for name, old, new in self.changes],
            "unreachable": [entry._asdict() for entry in self.unreachable],
        }

    def __repr__(self) -> str:
        verb, arrow = ("swapped", "->") if self.action == "swap" else ("inserted", "+")
        lines = [f"{len(self.changes)} {verb}"]
        lines += [f"  {name}: {_line(old)} {arrow} {_line(new)}" for name, old, new in self.changes]
        if self.unreachable:
            lines += [f"{len(self.unreachable)} not reached", *(f"  {name}: {reason}" for name, reason in self.unreachable)]
        return "\n".join(lines)


def perform(
    model: nn.Module,
    action: Action,
    plan: Sequence[tuple[list[str], Sparseout]],
    unreachable: Sequence[Unreachable],
    inplace: bool,
) -> SwapReport:
    """Carry out `plan`, a list of the names of a module and its new layer, and report it."""
    model = model if inplace else copy.deepcopy(model)
    do = edit.replace if action == "swap" else edit.insert
    changes = [Change(name, old, new) for names, new in plan for old in [do(model, names, new)] for name in names]
    if not changes:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in unreachable)
        warnings.warn(f"the model was not changed: nothing to {action}{' but ' + reasons if reasons else ''}", stacklevel=3)
    return SwapReport(model, action, tuple(changes), tuple(unreachable))


def apply_report(model: nn.Module, report: SwapReport | Mapping[str, Any], *, inplace: bool = False) -> SwapReport:
    """Make the changes of `report` in `model`, a freshly loaded model of the architecture that the report was made on.

    Args:
        model: has at each changed name a module of the class that was there.
        report: a `SwapReport`, whose layers' present settings are used (all but the generator), or its `to_dict()`.
        inplace: change `model` instead of a copy.

    Returns:
        The new report, without `unreachable`.

    Raises:
        TypeError: `model` is not a module.
        ValueError: `report` is not one, or does not fit `model`. Nothing is changed then.

    >>> import sparseout
    >>> def load():
    ...     return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2))
    >>> record = sparseout.swap_dropout(load(), q=1.5).to_dict()
    >>> sparseout.surgery.apply_report(load(), record)
    1 swapped
      1: Dropout(p=0.2, inplace=False) -> Sparseout(p=0.2, q=1.5)
    """
    modules = {name: module for module, names in edit.names_of(model).items() for name in names}
    action, changes = _read(report.to_dict() if isinstance(report, SwapReport) else report)
    plan: dict[nn.Module, tuple[list[str], Sparseout]] = {}
    for name, old, layer in changes:
        module = modules.get(name)
        if module is None or class_of(module) != old:
            here = "nothing" if module is None else f"a {class_of(module)}"
            raise ValueError(f"report does not fit model: it changed a {old} at {name!r}, and there is {here}")
        if isinstance(module, edit.Followed):
            raise ValueError(f"report does not fit model: {name!r} has an inserted layer already")
        plan.setdefault(module, ([], layer))[0].append(name)
    return perform(model, action, list(plan.values()), (), inplace)


def class_of(module: nn.Module) -> str:
    """The full name of a module's class."""
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _write(layer: Sparseout) -> dict[str, Any]:
    settings = {name: value for name, value in layer.settings().items() if name != "generator"}
    return {"layer": type(layer).__name__, **{k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}}


def _read(record: Mapping[str, Any]) -> tuple[Action, list[tuple[str, str, Sparseout]]]:
    try:
        action = check_choice("action", record["action"], get_args(Action))
        changes = []
        for entry in record["changes"]:
            settings = dict(entry["new"])
            changes.append((entry["name"], entry["old"], _LAYERS[settings.pop("layer")](**settings)))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"report must be a SwapReport or what its to_dict() gave, got one that is wrong at: {error}") from error
    return action, changes


def _line(module: nn.Module) -> str:
    return f"{type(module).__name__}({module.extra_repr()})"
