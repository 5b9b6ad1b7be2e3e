"""The two changes that surgery makes in a model, and their undoing. No key of the `state_dict` moves, and only layers add any."""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Callable
from typing import Any

from torch import nn

from sparseout.layers import Sparseout

INSERTED = "sparseout"

# The names under which this version of torch keeps a module's hooks.
_HOOKS = tuple(name for name in vars(nn.Module()) if "hook" in name)


def names_of(model: nn.Module) -> dict[nn.Module, list[str]]:
    """Each module of `model` with all the names that it goes by, in the order of `named_modules`."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    return names


def holds_something(module: nn.Module) -> bool:
    """Whether a swap of `module` would lose modules, parameters or buffers."""
    return bool([*module.children(), *module.parameters(), *module.buffers()])


def replace(model: nn.Module, names: list[str], new: Sparseout) -> nn.Module:
    """Put `new` in the place of the one module that goes by `names`; return that module, which `new.replaced` keeps."""
    old = model.get_submodule(names[0])
    new.replaced = (old,)
    _move(model, new)
    _put(model, names, old, new)
    return old


def insert(model: nn.Module, names: list[str], new: Sparseout) -> nn.Module:
    """Let `new` act on what the module that goes by `names` returns, as its submodule; return the module."""
    module = model.get_submodule(names[0])
    _move(model, new)
    new.train(module.training)
    module.add_module(INSERTED, new)
    kind: Any = type(module)
    # A forward hook would not do: a graph that was compiled before does not look for new ones.
    module.__class__ = _followed(kind)
    return module


class Followed(nn.Module):
    """What the class of a module becomes by `insert`: a subclass whose output goes through the layer."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.get_submodule(INSERTED)(super().forward(*args, **kwargs))

    def __reduce_ex__(self, protocol: Any) -> Any:
        # In the way of the class it was, which pickle can find by its name.
        reduced: Any = super().__reduce_ex__(protocol)
        build, arguments, *state = reduced
        arguments = tuple(type(self).__bases__[1] if each is type(self) else each for each in arguments)
        return _rebuild, (build, arguments), (state[0] if state else None, self.get_submodule(INSERTED))

    def __setstate__(self, state: Any) -> None:
        own, layer = state
        if own is not None:
            super().__setstate__(own)
        self.add_module(INSERTED, layer)


def restore(model: nn.Module) -> nn.Module:
    """Undo in place what `swap_dropout` and `insert_after` did to `model`, and return it.

    The modules that were replaced come back: the same objects with the settings they had, in the mode that the model is in now.

    Warns:
        UserWarning: there was nothing to undo.

    Raises:
        TypeError: `model` is not a module.

    >>> import sparseout
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2))
    >>> _ = sparseout.swap_dropout(model, q=1.5, inplace=True)
    >>> sparseout.restore(model)[1]
    Dropout(p=0.2, inplace=False)
    """
    changed = [(module, names) for module, names in names_of(model).items() if _is_changed(module)]
    if not changed:
        warnings.warn("restore changed nothing: no layer of model was put there by swap_dropout or insert_after", stacklevel=2)
    for module, names in changed:
        if isinstance(module, Sparseout) and module.replaced:
            _put(model, names, module, *module.replaced)
        else:
            delattr(module, INSERTED)
            module.__class__ = type(module).__bases__[1]
    return model


def _is_changed(module: nn.Module) -> bool:
    return isinstance(module, Followed) or (isinstance(module, Sparseout) and bool(module.replaced))


def _move(model: nn.Module, new: Sparseout) -> None:
    # A running scale must lie where `DistributedDataParallel` broadcasts from.
    tensor = next(itertools.chain(model.parameters(), model.buffers()), None)
    if tensor is not None:
        new.to(tensor.device)


def _put(model: nn.Module, names: list[str], old: nn.Module, new: nn.Module) -> None:
    new.train(old.training)
    # The dictionaries themselves, so that a hook's handle goes on working.
    vars(new).update({name: vars(old)[name] for name in _HOOKS if name in vars(old)})
    for name in names:
        model.set_submodule(name, new)


@functools.cache
def _followed(kind: Any) -> type[nn.Module]:
    names = {name: getattr(kind, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(kind.__name__, (Followed, kind), names)


def _rebuild(build: Callable[..., nn.Module], arguments: tuple[Any, ...]) -> nn.Module:
    module = build(*arguments)
    kind: Any = type(module)
    module.__class__ = _followed(kind)
    return module
