"""The settings of all layers of a model as plain data: `config` reads them, and `apply_config` restores them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from torch import nn

from sparseout.checks import check_choice
from sparseout.layers import Sparseout
from sparseout.regularizers.k_winners import Selection
from sparseout.regularizers.penalty import Penalty
from sparseout.surgery import edit
from sparseout.surgery.layer_data import KINDS, check_type, class_of, read_layer, set_layer, why_not_settable, write_layer
from sparseout.surgery.report import Action, check_new, check_place, perform

VERSION = 1
_OWN: tuple[Any, ...] = (Sparseout, Penalty, Selection, *KINDS.values())


def config(model: nn.Module) -> dict[str, Any]:
    """Return the settings of all Sparseout and regularizer layers of `model` by module name, as data that JSON can hold.

    A `state_dict` has the weights of a model, and neither its layers nor their `p`, `q`, `gradient`, `scale`, `strength` or `k`.
    `apply_config` puts both into a model of the same architecture. For layers that `swap_dropout` or `insert_after` added, the
    data also names the module that was there before. Generators are not part of it.

    Args:
        model: any module.

    Returns:
        A dictionary with `"version"`, which is 1, and `"layers"`, which maps names of modules to settings. A layer with several
        names is listed under each.

    Raises:
        TypeError: `model` is not a `torch.nn.Module`.
        ValueError: a layer is of a class of your own that derives from the library's, which `apply_config` would not build.

    >>> import sparseout
    >>> model = sparseout.swap_dropout(nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.1)), q=1.5).model
    >>> sparseout.config(model)["layers"]["1"]  # doctest: +ELLIPSIS
    {'layer': 'Sparseout', 'p': 0.1, 'q': 1.5, ..., 'action': 'swap', 'old': 'torch.nn.modules.dropout.Dropout'}
    """
    names = edit.names_of(model)
    layers = {}
    for name, module in _own_layers(model).items():
        if type(module) not in KINDS.values():
            raise ValueError(
                f"model must have layers of the classes of sparseout alone, got {class_of(module)} at {name!r}, "
                "which apply_config could not build"
            )
        layers[name] = write_layer(module, names) | _origin(model, name, module)
    return {"version": VERSION, "layers": layers}


def apply_config(model: nn.Module, config: Mapping[str, Any]) -> nn.Module:
    """Give `model` the layers and settings of `config`, in place, and return it.

    Layers that `model` has already get the settings. The others are put where `swap_dropout` or `insert_after` had put them. If
    a layer has tensors of its own, such as a `running_rms`, call `load_state_dict` after this.

    Args:
        model: a module of the architecture that `config` was made from, with or without the layers.
        config: the result of `sparseout.config`. Nothing in it is executed, and only the classes of this library are built.

    Raises:
        TypeError: `model` is not a `torch.nn.Module`.
        ValueError: `config` has an unknown class, name or value, or does not fit `model`, or lacks a layer that `model` has.
            Nothing changes in this case.

    >>> import json, sparseout
    >>> def load():
    ...     return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2))
    >>> model = sparseout.swap_dropout(load(), q=1.5).model
    >>> model = sparseout.insert_after(model, nn.ReLU, lambda relu: sparseout.regularizers.KWinners(0.25)).model
    >>> text = json.dumps(sparseout.config(model))
    >>> again = sparseout.apply_config(load(), json.loads(text))
    >>> again[2], again[1].sparseout
    (Sparseout(p=0.2, q=1.5), KWinners(k=0.25))
    """
    modules, own = edit.modules_of(model), _own_layers(model)
    entries = _read(config)
    for name in own:
        if name not in entries:
            raise ValueError(f"config must name all layers of model, but lacks {name!r}, a {type(own[name]).__name__}")
    present: dict[nn.Module, tuple[Any, Any]] = {}
    added: dict[tuple[Action, nn.Module], tuple[list[str], nn.Module, Any]] = {}
    for name, entry in entries.items():
        at = f"config['layers'][{name!r}]"
        settings = {key: value for key, value in entry.items() if key not in ("action", "old")}
        layer = read_layer(at, settings, modules)
        if name in own:
            _check_present(at, own[name], layer)
            _, first = present.setdefault(own[name], (layer, settings))
        else:
            action, place = _place(at, name, entry)
            module = check_place("config", modules, place, action, check_type(f"{at}['old']", entry.get("old"), str, "a string"))
            places, _, first = added.setdefault((action, module), ([], check_new(at, layer), settings))
            places.append(place)
        if settings != first:
            raise ValueError(f"{at} must equal the settings of the other names of the same module, got {settings!r:.200}")
    for old, (layer, _) in present.items():
        set_layer(old, layer)
    for (action, _), (places, layer, _) in added.items():
        perform(model, action, [(places, layer)], (), inplace=True)
    return model


def _own_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers of `model` whose settings a configuration holds, by each of their names."""
    return {name: module for name, module in edit.modules_of(model).items() if isinstance(module, _OWN)}


def _origin(model: nn.Module, name: str, layer: nn.Module) -> dict[str, str]:
    """Return how surgery put `layer` into `model`, and the class that was there before; nothing if the model's code made it."""
    parent, _, own_name = name.rpartition(".")
    holder = model.get_submodule(parent)
    if own_name == edit.INSERTED and isinstance(holder, edit.WithSparseout):
        action = "insert_before" if isinstance(holder, edit.WithSparseoutBefore) else "insert"
        return {"action": action, "old": class_of(holder)}
    if isinstance(layer, Sparseout) and layer.replaced:
        return {"action": "swap", "old": class_of(layer.replaced[0])}
    return {}


def _read(config: Any) -> dict[str, Mapping[str, Any]]:
    """Return the entries of the layers by name."""
    config = check_type("config", config, Mapping, "the result of sparseout.config, a dict with 'version' and 'layers'")
    for key in config:
        if key not in ("version", "layers"):
            raise ValueError(f"config must have the keys 'version' and 'layers' alone, got {key!r:.60}")
    if config.get("version") != VERSION:
        raise ValueError(f"config['version'] must be {VERSION}, got {config.get('version')!r:.60}")
    entries = check_type("config['layers']", config.get("layers"), Mapping, "a dict from module names to settings")
    return {
        check_type("the names in config['layers']", name, str, "strings"): check_type(
            f"config['layers'][{name!r}]", entry, Mapping, "a dict with 'layer' and the settings of the layer"
        )
        for name, entry in entries.items()
    }


def _check_present(at: str, layer: nn.Module, new: nn.Module) -> None:
    """Raise unless `layer` can get the settings of `new`."""
    if class_of(layer) != class_of(new):
        raise ValueError(f"{at} must fit model, but is a {type(new).__name__}, and model has {class_of(layer)} there")
    if reason := why_not_settable(layer, new):
        raise ValueError(f"{at} must fit model, but {reason}")


def _place(at: str, name: str, entry: Mapping[str, Any]) -> tuple[Action, str]:
    """Return how to put a layer into the model, and the name of the module that it replaces or acts on."""
    if "action" not in entry:
        raise ValueError(f"{at} must fit model, which has no such layer of its own: build model with the same code as before")
    action: Action = check_choice(f"{at}['action']", entry["action"], get_args(Action))
    if action == "swap":
        return action, name
    holder, _, own_name = name.rpartition(".")
    if own_name != edit.INSERTED:
        raise ValueError(f"{at} must have a name that ends in {edit.INSERTED!r} with action {action!r}")
    return action, holder
