"""The two edits of surgery, replacing a module and inserting a layer, and how to undo them.

An edit keeps all keys of the `state_dict`. It adds keys only for layers that have buffers of their own.
"""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Callable
from typing import Any

from torch import nn

from sparseout.layers import Sparseout

INSERTED = "sparseout"  # name of an inserted layer in the module that it follows

# The attributes in which `nn.Module` keeps its hooks.
HOOK_ATTRIBUTES = (
    "_backward_pre_hooks",
    "_backward_hooks",
    "_is_full_backward_hook",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


def names_of(model: nn.Module) -> dict[nn.Module, list[str]]:
    """Return each module of `model` with all its names, in the order of `named_modules`."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    return names


def modules_of(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules of `model` by each of their names."""
    return {name: module for module, names in names_of(model).items() for name in names}


def has_contents(module: nn.Module) -> bool:
    """Whether `module` holds modules, parameters or buffers, which a replacement would lose."""
    return bool([*module.children(), *module.parameters(), *module.buffers()])


def replace(model: nn.Module, names: list[str], new: Sparseout) -> nn.Module:
    """Replace the module that has these `names` by `new`, and return the old module. `new.replaced` keeps it."""
    old = model.get_submodule(names[0])
    new.replaced = (old,)
    _move_to_device(model, new)
    _put(model, names, old, new)
    return old


def insert(model: nn.Module, names: list[str], new: nn.Module, *, before: bool = False) -> nn.Module:
    """Make `new` act on the output of the module that has these `names`, as its submodule, and return the module.

    With `before`, it acts on the first argument of the module instead.
    """
    module = model.get_submodule(names[0])
    _move_to_device(model, new)
    new.train(module.training)
    module.add_module(INSERTED, new)
    holders = {name.rpartition(".")[0] for name in names}
    if any(isinstance(model.get_submodule(each), nn.TransformerEncoderLayer) for each in holders):
        # In evaluation this layer runs a fused kernel without its submodules, unless one of them has a hook.
        new.register_forward_pre_hook(_keep_unfused)
    # A forward hook would not work: a graph that is already compiled does not look for new hooks.
    kind: Any = type(module)
    module.__class__ = _with_sparseout(kind, WithSparseoutBefore if before else WithSparseout)
    return module


class WithSparseout(nn.Module):
    """Base of the classes that modules get from `insert`: subclasses of their own class, whose output goes through the layer.

    Attributes:
        original_class: the class before `insert`.
    """

    original_class: Any

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.get_submodule(INSERTED)(super().forward(*args, **kwargs))

    def __reduce_ex__(self, protocol: Any) -> Any:
        # Pickle as the original class, which pickle can find by name, together with the layer.
        reduced: Any = super().__reduce_ex__(protocol)
        build, arguments, *state = reduced
        arguments = tuple(self.original_class if each is type(self) else each for each in arguments)
        base = WithSparseoutBefore if isinstance(self, WithSparseoutBefore) else WithSparseout
        return _rebuild, (build, arguments, base), (state[0] if state else None, self.get_submodule(INSERTED))

    def __setstate__(self, state: Any) -> None:
        own, layer = state
        if own is not None:
            super().__setstate__(own)
        self.add_module(INSERTED, layer)


class WithSparseoutBefore(WithSparseout):
    """The same for a layer that acts on the first argument."""

    def forward(self, input: Any, *args: Any, **kwargs: Any) -> Any:
        return super(WithSparseout, self).forward(self.get_submodule(INSERTED)(input), *args, **kwargs)


def restore(model: nn.Module) -> nn.Module:
    """Undo `swap_dropout` and `insert_after` on `model` in place, and return `model`.

    The replaced modules come back as the same objects, with their old settings and the current training mode of their layers.

    Warns:
        UserWarning: `model` has no changes to undo.

    Raises:
        TypeError: `model` is not a `torch.nn.Module`.

    >>> import sparseout
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2))
    >>> _ = sparseout.swap_dropout(model, q=1.5, inplace=True)
    >>> sparseout.restore(model)[1]
    Dropout(p=0.2, inplace=False)
    """
    changed = [(module, names) for module, names in names_of(model).items() if _is_changed(module)]
    if not changed:
        warnings.warn("restore changed nothing: model has no layer from swap_dropout or insert_after", stacklevel=2)
    for module, names in changed:
        if isinstance(module, Sparseout) and module.replaced:
            _put(model, names, module, *module.replaced)
        elif isinstance(module, WithSparseout):
            delattr(module, INSERTED)
            module.__class__ = module.original_class
    return model


def _is_changed(module: nn.Module) -> bool:
    return isinstance(module, WithSparseout) or (isinstance(module, Sparseout) and bool(module.replaced))


def _move_to_device(model: nn.Module, new: nn.Module) -> None:
    # `DistributedDataParallel` broadcasts the running scale together with the model's other buffers.
    tensor = next(itertools.chain(model.parameters(), model.buffers()), None)
    if tensor is not None:
        new.to(tensor.device)


def _put(model: nn.Module, names: list[str], old: nn.Module, new: nn.Module) -> None:
    new.train(old.training)
    # The hooks' dictionaries themselves, so that the handles of the hooks still remove them.
    vars(new).update({name: vars(old)[name] for name in HOOK_ATTRIBUTES if name in vars(old)})
    for name in names:
        model.set_submodule(name, new)


@functools.cache
def _with_sparseout(original: Any, base: Any) -> type[nn.Module]:
    """Return the subclass of `original` and `base`, which calls a layer. It has the same name as `original`."""
    namespace = {name: getattr(original, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(original.__name__, (base, original), {**namespace, "original_class": original})


def _keep_unfused(layer: nn.Module, inputs: Any) -> None:
    pass


def _rebuild(build: Callable[..., nn.Module], arguments: tuple[Any, ...], base: Any) -> nn.Module:
    module = build(*arguments)
    kind: Any = type(module)
    module.__class__ = _with_sparseout(kind, base)
    return module
