"""What surgery changed, as a record that can be read, saved and applied again."""

from __future__ import annotations

import copy
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from torch import nn

from sparseout.checks import check_choice, check_shared_dims
from sparseout.layers import Sparseout
from sparseout.structured import LockedSparseout, Sparseout1d, Sparseout2d, Sparseout3d
from sparseout.surgery import edit

Action = Literal["swap", "insert"]

_LAYERS = {kind.__name__: kind for kind in (Sparseout, Sparseout1d, Sparseout2d, Sparseout3d, LockedSparseout)}


class Change(NamedTuple):
    """One name in the model: the module there before, and the layer that took its place or acts on its output."""

    name: str
    old: nn.Module
    new: Sparseout


class Unreachable(NamedTuple):
    """A module whose dropout cannot be swapped or may never run, or which no layer can be put behind, and why."""

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
        uncalled: a `(name, reason)` for each changed name whose layer may never be called, by the model's source: `check_swap`
            shows whether it is.
        copied: whether `model` is a copy.

    >>> import sparseout
    >>> model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1), nn.LSTM(4, 4, 2, dropout=0.2))
    >>> sparseout.swap_dropout(model, q=1.5, inplace=True)
    1 swapped
      1: Dropout(p=0.1, inplace=False) -> Sparseout(p=0.1, q=1.5)
    1 not reached
      2: LSTM drops out between its layers in one call of torch
    """

    model: nn.Module
    action: Action
    changes: tuple[Change, ...]
    unreachable: tuple[Unreachable, ...] = ()
    uncalled: tuple[Unreachable, ...] = ()
    copied: bool = False

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
            "uncalled": [entry._asdict() for entry in self.uncalled],
        }

    def __repr__(self) -> str:
        verb, arrow = ("swapped", "->") if self.action == "swap" else ("inserted", "+")
        apart = dict(self.uncalled)
        where = " in a copy: use what is returned (report.model), or inplace=True" if self.copied and self.changes else ""
        lines = [f"{len(self.changes) - len(apart)} {verb}{where}"]
        lines += [f"  {name}: {_line(old)} {arrow} {_line(new)}" for name, old, new in self.changes if name not in apart]
        if apart:
            lines += [f"{len(apart)} {verb} where the layer may never be called: run check_swap"]
            lines += [f"  {name}: {reason}" for name, reason in self.uncalled]
        if self.unreachable:
            lines += [f"{len(self.unreachable)} not reached", *(f"  {name}: {reason}" for name, reason in self.unreachable)]
        return "\n".join(lines)


def perform(
    model: nn.Module,
    action: Action,
    plan: Sequence[tuple[list[str], Sparseout]],
    unreachable: Sequence[Unreachable],
    inplace: bool,
    *,
    uncalled: Sequence[Unreachable] = (),
    hint: str = "",
) -> SwapReport:
    """Carry out `plan`, a list of the names of a module and its new layer, and report it; `hint` helps where it is empty."""
    model = model if inplace else copy.deepcopy(model)
    do = edit.replace if action == "swap" else edit.insert
    changes = [Change(name, old, new) for names, new in plan for old in [do(model, names, new)] for name in names]
    if not changes:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in unreachable)
        message = f"the model was not changed: nothing to {action}{' but ' + reasons if reasons else ''}"
        warnings.warn(f"{message}{'; ' + hint if hint else ''}", stacklevel=3)
    return SwapReport(model, action, tuple(changes), tuple(unreachable), tuple(uncalled), not inplace)


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
    >>> sparseout.surgery.apply_report(load(), record, inplace=True)
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
        if action == "swap" and (name == "" or edit.holds_something(module)):
            raise ValueError(f"report does not fit model: a swap at {name!r} would lose what the {old} there holds")
        if action == "insert" and hasattr(module, edit.INSERTED):
            raise ValueError(f"report does not fit model: {name!r} has an attribute {edit.INSERTED!r} of its own")
        plan.setdefault(module, ([], layer))[0].append(name)
    return perform(model, action, list(plan.values()), (), inplace)


def class_of(module: nn.Module) -> str:
    """The full name of a module's class."""
    return f"{type(module).__module__}.{type(module).__qualname__}"


def _write(layer: Sparseout) -> dict[str, Any]:
    settings = {name: value for name, value in layer.settings().items() if name != "generator"}
    return {"layer": type(layer).__name__, **{k: list(v) if isinstance(v, tuple) else v for k, v in settings.items()}}


def _read(record: Any) -> tuple[Action, list[tuple[str, str, Sparseout]]]:
    record = _check("report", record, Mapping, "a SwapReport or what its to_dict() gave")
    action = check_choice("report['action']", record.get("action"), get_args(Action))
    entries = _check("report['changes']", record.get("changes"), (list, tuple), "a list of changes")
    changes: list[tuple[str, str, Sparseout]] = []
    for place, entry in enumerate(entries):
        at = f"report['changes'][{place}]"
        entry = _check(at, entry, Mapping, "a dict with 'name', 'old' and 'new'")
        name, old = (_check(f"{at}[{key!r}]", entry.get(key), str, "a string") for key in ("name", "old"))
        if any(name == other for other, *_ in changes):
            raise ValueError(f"{at}['name'] must differ from those before, got {name!r} again")
        changes.append((name, old, _layer(f"{at}['new']", entry.get("new"))))
    return action, changes


def _layer(at: str, record: Any) -> Sparseout:
    settings = dict(_check(at, record, Mapping, "a dict with 'layer' and its settings"))
    kind = _LAYERS[check_choice(f"{at}['layer']", settings.pop("layer", None), tuple(_LAYERS))]
    if "generator" in settings:
        raise ValueError(f"{at} must not hold a generator, got {settings['generator']!r:.60}")
    for name in ("inplace", "batch_first"):
        if name in settings:
            _check(f"{at}[{name!r}]", settings[name], bool, "a bool")
    try:
        layer = kind(**settings)
        check_shared_dims(layer.shared_dims, sys.maxsize)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{at} must be a {kind.__name__}'s settings, got one that is wrong: {error}") from error
    return layer


def _check(name: str, value: Any, kind: Any, allowed: str) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{name} must be {allowed}, got {value!r:.60}")
    return value


def _line(module: nn.Module) -> str:
    return f"{type(module).__name__}({module.extra_repr()})"
