"""Reports of surgery: the changes to a model, which can be printed, saved and applied again."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from torch import nn

from sparseout.checks import check_choice
from sparseout.layers import Sparseout
from sparseout.notebook import page
from sparseout.surgery import edit
from sparseout.surgery.layer_data import KINDS, LINEAR, check_type, class_of, read_layer, write_layer

Action = Literal["swap", "insert", "insert_before"]


class Change(NamedTuple):
    """A change at one name: the old module, and the new layer that replaces it or acts on its output."""

    name: str
    old: nn.Module
    new: nn.Module


class Unreachable(NamedTuple):
    """A module that surgery could not change, or whose new layer may never run, and the reason."""

    name: str
    reason: str


class Chosen(NamedTuple):
    """A module that `where="mlp"` chose, and the reason."""

    name: str
    reason: str


@dataclass(frozen=True, repr=False)
class SwapReport:
    """The result of `swap_dropout` or `insert_after`.

    Attributes:
        model: the changed model: the given one if `inplace`, a copy otherwise.
        action: `"swap"`, `"insert"` (after the module), or `"insert_before"`.
        changes: a `(name, old, new)` for each changed name. A module with several names has a single `new`.
        unreachable: a `(name, reason)` for each module that applies dropout by itself and was left alone.
        uncalled: a `(name, reason)` for each changed name whose layer may never be called, according to the model's source code.
            `check_swap` shows whether it is called.
        chosen: a `(name, reason)` for each changed name that `where="mlp"` chose.
        copied: whether `model` is a copy.

    >>> import sparseout
    >>> model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.1), nn.LSTM(4, 4, 2, dropout=0.2))
    >>> sparseout.swap_dropout(model, q=1.5, inplace=True)
    1 swapped
      1: Dropout(p=0.1, inplace=False) -> Sparseout(p=0.1, q=1.5)
    1 not reached
      2: LSTM applies dropout between its layers inside a single call of torch
    """

    model: nn.Module
    action: Action
    changes: tuple[Change, ...]
    unreachable: tuple[Unreachable, ...] = ()
    uncalled: tuple[Unreachable, ...] = ()
    copied: bool = False
    chosen: tuple[Chosen, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the report without its modules, as data that JSON can hold. `surgery.apply_report` accepts it.

        >>> import sparseout
        >>> sparseout.swap_dropout(nn.Sequential(nn.Dropout(0.1)), q=1.5).to_dict()["changes"]  # doctest: +ELLIPSIS
        [{'name': '0', 'old': 'torch.nn.modules.dropout.Dropout', 'new': {'layer': 'Sparseout', 'p': 0.1, 'q': 1.5, ...}}]
        """
        return {
            "action": self.action,
            "changes": [{"name": name, "old": class_of(old), "new": self._write(new)} for name, old, new in self.changes],
            "unreachable": [entry._asdict() for entry in self.unreachable],
            "uncalled": [entry._asdict() for entry in self.uncalled],
        }

    def _write(self, layer: nn.Module) -> dict[str, Any]:
        if type(layer) not in KINDS.values():
            return {"layer": type(layer).__name__, "settings": layer.extra_repr()}
        return write_layer(layer, edit.names_of(self.model))

    def __repr__(self) -> str:
        verb = "swapped" if self.action == "swap" else "inserted"
        uncalled = dict(self.uncalled)
        where = " in a copy: use report.model, or pass inplace=True" if self.copied and self.changes else ""
        lines = [f"{len(self.changes) - len(uncalled)} {verb}{where}"]
        lines += [f"  {change.name}: {self._describe(change)}" for change in self.changes if change.name not in uncalled]
        if uncalled:
            lines += [f"{len(uncalled)} {verb}, but may never be called: run check_swap"]
            lines += [f"  {name}: {reason}" for name, reason in self.uncalled]
        if self.unreachable:
            lines += [f"{len(self.unreachable)} not reached", *(f"  {name}: {reason}" for name, reason in self.unreachable)]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        verb, uncalled = ("swapped" if self.action == "swap" else "inserted"), dict(self.uncalled)
        where = " in a copy: use report.model, or pass inplace=True" if self.copied and self.changes else ""
        reasons = dict(self.chosen) | uncalled
        rows = [["layer", "before", verb, *(["reason"] if reasons else [])]]
        for name, old, new in self.changes:
            rows.append([name, _text(old), _text(new), *([reasons.get(name, "")] if reasons else [])])
        notes = [f"{len(uncalled)} may never be called: run check_swap"] if uncalled else []
        notes += [f"not reached: {name}: {reason}" for name, reason in self.unreachable]
        return page([f"{len(self.changes) - len(uncalled)} {verb}{where}"], rows if self.changes else [], notes)

    def _describe(self, change: Change) -> str:
        old, new = _text(change.old), _text(change.new)
        if self.action == "insert_before":
            reason = dict(self.chosen).get(change.name)
            return f"{new} + {old}" + (f", which reads {reason}" if reason else "")
        return f"{old} -> {new}" if self.action == "swap" else f"{old} + {new}"


def perform(
    model: nn.Module,
    action: Action,
    plan: Sequence[tuple[list[str], nn.Module]],
    unreachable: Sequence[Unreachable],
    inplace: bool,
    *,
    uncalled: Sequence[Unreachable] = (),
    chosen: Sequence[Chosen] = (),
    hint: str = "",
) -> SwapReport:
    """Make the changes of `plan`, and return the report. If the plan is empty, warn with `unreachable` and `hint` as the reasons.

    Args:
        plan: the names of a module and its new layer, for each change.
    """
    if not inplace:
        copied: dict[int, Any] = {}
        model = copy.deepcopy(model, copied)
        # A layer may refer to another layer of the model, as the reader of a penalty: it must be that of the copy.
        plan = [(names, new if isinstance(new, Sparseout) else copy.deepcopy(new, copied)) for names, new in plan]
    before = functools.partial(edit.insert, before=True)
    actions: dict[str, Callable[..., nn.Module]] = {"swap": edit.replace, "insert": edit.insert, "insert_before": before}
    changes = []
    for names, new in plan:
        old = actions[action](model, names, new)
        changes += [Change(name, old, new) for name in names]
    if not changes:
        details = [*(f"{name or 'the model'}: {reason}" for name, reason in unreachable), hint]
        warnings.warn(f"the model is unchanged, because {'; '.join(filter(None, details))}", stacklevel=3)
    return SwapReport(model, action, tuple(changes), tuple(unreachable), tuple(uncalled), not inplace, tuple(chosen))


def apply_report(model: nn.Module, report: SwapReport | Mapping[str, Any], *, inplace: bool = False) -> SwapReport:
    """Apply the changes of `report` to `model`, another instance of the architecture that the report was made from.

    Args:
        model: a module with the same classes at the changed names as the original model before its surgery.
        report: a `SwapReport`, whose layers' current settings are copied (except the generator), or the result of `to_dict()`.
        inplace: change `model` instead of a copy.

    Returns:
        A new report, without `unreachable` and `uncalled`.

    Raises:
        TypeError: `model` is not a `torch.nn.Module`.
        ValueError: `report` is invalid or does not fit `model`. The model is unchanged in this case.

    >>> import sparseout
    >>> def load():
    ...     return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2))
    >>> record = sparseout.swap_dropout(load(), q=1.5).to_dict()
    >>> sparseout.surgery.apply_report(load(), record, inplace=True)
    1 swapped
      1: Dropout(p=0.2, inplace=False) -> Sparseout(p=0.2, q=1.5)
    """
    modules = edit.modules_of(model)
    action, changes = _read(report.to_dict() if isinstance(report, SwapReport) else report, modules)
    plan: dict[nn.Module, tuple[list[str], nn.Module]] = {}
    for name, old, layer in changes:
        module = check_place("report", modules, name, action, old)
        plan.setdefault(module, ([], layer))[0].append(name)
    return perform(model, action, list(plan.values()), (), inplace, hint="report lists no changes")


def check_place(record: str, modules: Mapping[str, nn.Module], name: str, action: Action, old: str) -> nn.Module:
    """Return the module at `name`; raise unless it is of class `old`, and `action` can put a layer there.

    Args:
        record: the argument that asks for it, for error messages.
    """
    module = modules.get(name)
    if module is None or class_of(module) != old:
        found = "nothing" if module is None else class_of(module)
        raise ValueError(f"{record} must fit model, but it changes {old} at {name!r}, and model has {found} there")
    if isinstance(module, edit.WithSparseout):
        raise ValueError(f"{record} must fit model, but {name!r} already has an inserted layer")
    if action == "swap" and (name == "" or edit.has_contents(module)):
        raise ValueError(f"{record} must fit model, but a swap at {name!r} would lose the contents of {old}")
    if action != "swap" and hasattr(module, edit.INSERTED):
        raise ValueError(f"{record} must fit model, but {name!r} has its own attribute {edit.INSERTED!r}")
    return module


def check_new(at: str, layer: nn.Module) -> nn.Module:
    """Return `layer`; raise if surgery cannot put it into a model."""
    if isinstance(layer, LINEAR):
        raise ValueError(f"{at} must be a layer without weights, got a {type(layer).__name__}")
    return layer


def _read(record: Any, modules: Mapping[str, nn.Module]) -> tuple[Action, list[tuple[str, str, nn.Module]]]:
    record = check_type("report", record, Mapping, "a SwapReport or the result of its to_dict()")
    action = check_choice("report['action']", record.get("action"), get_args(Action))
    entries = check_type("report['changes']", record.get("changes"), (list, tuple), "a list of changes")
    changes: list[tuple[str, str, nn.Module]] = []
    for position, entry in enumerate(entries):
        at = f"report['changes'][{position}]"
        entry = check_type(at, entry, Mapping, "a dict with 'name', 'old' and 'new'")
        name, old = (check_type(f"{at}[{key!r}]", entry.get(key), str, "a string") for key in ("name", "old"))
        if any(name == other for other, *_ in changes):
            raise ValueError(f"{at}['name'] must be unique, got {name!r} again")
        new = f"{at}['new']"
        changes.append((name, old, check_new(new, read_layer(new, entry.get("new"), modules))))
    return action, changes


def _text(module: nn.Module) -> str:
    return f"{type(module).__name__}({module.extra_repr()})"
