"""Sparseout in the place of a model's dropout, or behind its activations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any, Literal

from torch import jit, nn

from sparseout.checks import check_layer_scale, check_p, check_q
from sparseout.layers import Sparseout
from sparseout.structured import Sparseout1d, Sparseout2d, Sparseout3d
from sparseout.surgery import closest, edit
from sparseout.surgery.report import SwapReport, Unreachable, perform
from sparseout.surgery.uses import uses_in

Where = str | Callable[[str, nn.Module], bool] | None
Plan = list[tuple[list[str], Sparseout]]

_SCRIPTED = "compiled by torch.jit: change the model before compiling it"
_KINDS: dict[type[nn.Module], Callable[..., Sparseout]] = {
    nn.Dropout: Sparseout,
    nn.Dropout1d: Sparseout1d,
    nn.Dropout2d: Sparseout2d,
    nn.Dropout3d: Sparseout3d,
}


def swap_dropout(
    model: nn.Module,
    q: float,
    *,
    p: float | None = None,
    scale: float | Literal["rms"] = 1.0,
    where: Where = None,
    mapping: Mapping[type[nn.Module], Callable[..., Sparseout]] | None = None,
    inplace: bool = False,
) -> SwapReport:
    """Replace `nn.Dropout`, `nn.Dropout1d`, `2d` and `3d` in `model` by `Sparseout`, `Sparseout1d`, `2d` and `3d`.

    Each new layer keeps the `p`, `inplace`, hooks and mode of the old one; the `state_dict` keeps its keys, to which
    `scale="rms"` adds each layer's `running_rms`. The old module is kept as `layer.replaced[0]`, outside the model's modules, for
    `restore`. A module that goes by several names is replaced by one layer.

    Left alone and named in the report: modules that drop out inside one call (`nn.LSTM(dropout=...)`, `nn.MultiheadAttention`,
    also where an `nn.TransformerEncoderLayer` holds it), `nn.AlphaDropout`, subclasses with a `forward` of their own, and what
    `torch.jit` compiled. The source of the model's classes shows more, without running them. The report names a probability that
    the model hands to a function. It lists apart the swapped layers that may never be called, as where attention hands the `p`
    of its dropout to a fused kernel. `check_swap` runs the model, and finds what its source does not show.

    The settings of the layers are not in the `state_dict`: `load_state_dict` of a model that had another `p`, `q` or `scale`
    keeps those of this one. Save `report.to_dict()` beside the weights, and use `surgery.apply_report` before loading them.

    Args:
        model: any module that holds others.
        q: norm of the new layers, at least 0.
        p: drop probability of the new layers in [0, 1]. Default: each one's own.
        scale: unit in which the new layers measure `|x|`, a positive number or `"rms"`: see `Sparseout`.
        where: which modules: a pattern of their names such as `"encoder.*"` (`*` matches dots too), or a function of name and
            module. Default: all.
        mapping: further classes of dropout, each with a class of layer, which is built from the old module's `p` and `inplace`,
            or with a function from the old module to its layer, which keeps its own `q`, `p` and `scale`.
        inplace: change `model` instead of a copy.

    Returns:
        A `SwapReport`; its `model` is `model` if in place, else the changed copy.

    Warns:
        UserWarning: nothing was changed; it names what comes closest in the model.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or out of its range, `model` is itself a dropout, or a class in
            `mapping` has no `p`. Nothing is changed then.

    >>> import sparseout
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Dropout2d(0.2), nn.Flatten(), nn.Dropout(0.5))
    >>> sparseout.swap_dropout(model, q=1.5)
    2 swapped in a copy: use what is returned (report.model), or inplace=True
      2: Dropout2d(p=0.2, inplace=False) -> Sparseout2d(p=0.2, q=1.5)
      4: Dropout(p=0.5, inplace=False) -> Sparseout(p=0.5, q=1.5)
    >>> sparseout.swap_dropout(model, q=1.5, p=0.3, where=lambda name, module: name == "4").changes[0].new
    Sparseout(p=0.3, q=1.5)
    """
    q, p, scale = check_q(q), p if p is None else check_p(p), check_layer_scale(scale)
    selects, kinds = _selector(where), {**_KINDS, **_check_mapping(mapping)}
    plan: Plan = []
    unreachable: list[Unreachable] = []
    uncalled: list[Unreachable] = []
    all_names = edit.names_of(model)
    uses = uses_in(all_names)
    for module, every_name in all_names.items():
        names = [name for name in every_name if selects(name, module)]
        known = next((kind for kind in type(module).__mro__ if kind in kinds), None)
        if not names:
            continue
        if reason := _why_not(module, known, kinds, names[0]):
            unreachable.append(Unreachable(names[0], reason))
        elif not known:
            unreachable += [Unreachable(names[0], f"{type(module).__name__} {call}") for call in uses.drops.get(module, ())]
        else:
            plan.append((names, _build(kinds[known], module, q, p, scale)))
            attributes = {name.rpartition(".")[2] for name in every_name}
            holders = [model.get_submodule(name.rpartition(".")[0]) for name in every_name]
            if reason := uses.why_uncalled(module, attributes, holders):
                uncalled += [Unreachable(name, reason) for name in names]
    if any("" in names for names, _ in plan):
        raise ValueError(f"model must hold the dropout to be swapped, got a {type(model).__name__} itself: use Sparseout instead")
    hint = "" if plan else closest.to_dropout(all_names, tuple(kinds), where)
    return perform(model, "swap", plan, unreachable, inplace, uncalled=uncalled, hint=hint)


def insert_after(
    model: nn.Module,
    kind: type[nn.Module] | tuple[type[nn.Module], ...],
    *,
    q: float,
    p: float,
    scale: float | Literal["rms"] = 1.0,
    where: Where = None,
    inplace: bool = False,
) -> SwapReport:
    """Let `Sparseout(p, q)` act on what each module of class `kind` returns: for models that have activations but no dropout.

    The layer becomes the submodule `sparseout` of the activation, and the activation's class a subclass of what it was, which
    calls it: the object stays the same and the `state_dict` keeps its keys, to which `scale="rms"` adds each layer's
    `running_rms`. An activation that has several names, or that a model calls several times, gets one layer, which draws anew at
    each call. Those that have a layer already are left alone.

    Args:
        model: any module.
        kind: a class of activations, or a tuple of classes; subclasses count. Some models bring their own: look it up in
            `print(model)`.
        q: norm, at least 0.
        p: drop probability in [0, 1].
        scale, where, inplace: see `swap_dropout`.

    Returns, warns, raises:
        As `swap_dropout`.

    >>> import sparseout
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> report = sparseout.insert_after(model, nn.ReLU, q=1.0, p=0.2)
    >>> report
    1 inserted in a copy: use what is returned (report.model), or inplace=True
      1: ReLU() + Sparseout(p=0.2, q=1)
    >>> report.model.state_dict().keys() == model.state_dict().keys()
    True
    """
    q, p, scale = check_q(q), check_p(p), check_layer_scale(scale)
    kinds, selects = _check_kinds(kind), _selector(where)
    plan: Plan = []
    unreachable: list[Unreachable] = []
    for module, names in edit.names_of(model).items():
        if not any(selects(name, module) for name in names) or isinstance(module, edit.Followed):
            continue
        if _is_scripted(module, kinds):
            unreachable.append(Unreachable(names[0], _SCRIPTED))
        elif not isinstance(module, kinds):
            continue
        elif "forward" in vars(module):
            unreachable.append(Unreachable(names[0], f"the forward of this {type(module).__name__} was replaced"))
        elif hasattr(module, edit.INSERTED):
            unreachable.append(Unreachable(names[0], f"{type(module).__name__} has an attribute {edit.INSERTED!r} of its own"))
        elif isinstance(module, nn.Sequential):
            unreachable.append(Unreachable(names[0], f"{type(module).__name__} is a sequence: name the class of its last module"))
        else:
            plan.append((names, Sparseout(p, q, scale=scale)))
    hint = "" if plan else closest.to_kinds(edit.names_of(model), kinds, where)
    return perform(model, "insert", plan, unreachable, inplace, hint=hint)


def _build(kind: Any, old: Any, q: float, p: float | None, scale: float | Literal["rms"]) -> Sparseout:
    if isinstance(kind, type):
        if p is None and not hasattr(old, "p"):
            raise ValueError(f"p must be given, because {type(old).__name__} has no attribute p to keep, got None")
        built: Sparseout = kind(p=old.p if p is None else p, q=q, inplace=getattr(old, "inplace", False))
        built.scale = scale  # not by its class, which may be one of the user's that has no such argument
        return built
    new = kind(old)
    if not isinstance(new, Sparseout):
        raise TypeError(f"mapping must lead to layers of Sparseout, got {type(new).__name__} for {type(old).__name__}")
    return new


def _why_not(module: nn.Module, known: type[nn.Module] | None, kinds: Mapping[type[nn.Module], Any], name: str) -> str | None:
    """Why a module that drops out cannot be replaced; None if it can, or if it is none."""
    its = type(module).__name__
    if _is_scripted(module, tuple(kinds)):
        return _SCRIPTED
    if known is None:
        if isinstance(module, nn.RNNBase) and module.dropout > 0 and module.num_layers > 1:
            return f"{its} drops out between its layers in one call of torch"
        if isinstance(module, nn.MultiheadAttention) and module.dropout > 0:
            return f"{its} drops attention weights in one call of torch"
        if isinstance(module, (nn.AlphaDropout, nn.FeatureAlphaDropout)):
            return f"{its} keeps the mean and variance of SELU, which Sparseout does not: left alone"
        return None
    if type(module).forward is not known.forward:
        return f"{its} has a forward other than {known.__name__}'s: name it in mapping"
    if "forward" in vars(module):
        return f"the forward of this {its} was replaced"
    if edit.holds_something(module):
        return f"{its} holds modules, parameters or buffers, which a swap would lose"
    if name.endswith("_orig_mod"):
        return f"this {its} was compiled by itself: change the model before compiling it"
    return None


def _is_scripted(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> bool:
    return isinstance(module, jit.ScriptModule) and module.original_name in {kind.__name__ for kind in kinds}


def _selector(where: Where) -> Callable[[str, nn.Module], bool]:
    if where is None:
        return lambda name, module: True
    if isinstance(where, str):
        return lambda name, module: fnmatchcase(name, where)
    if not callable(where):
        raise TypeError(f"where must be a name pattern or a function of name and module, got {where!r}")
    return where


def _check_kinds(kind: Any) -> tuple[type[nn.Module], ...]:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    for each in kinds:
        if not (isinstance(each, type) and issubclass(each, nn.Module)):
            raise TypeError(f"kind must be a class of modules or a tuple of them, got {each!r}")
    return kinds


def _check_mapping(mapping: Any) -> Mapping[type[nn.Module], Callable[..., Sparseout]]:
    mapping = {} if mapping is None else mapping
    if not isinstance(mapping, Mapping):
        raise TypeError(f"mapping must be a dict from classes of modules to layers, got {type(mapping).__name__}")
    for old, new in mapping.items():
        wrong = isinstance(new, type) and not issubclass(new, Sparseout)
        if not (isinstance(old, type) and issubclass(old, nn.Module)) or not callable(new) or wrong:
            raise TypeError(f"mapping must lead from classes of modules to layers of Sparseout, got {old!r}: {new!r}")
    return mapping
