"""Replace the dropout of a model by Sparseout, or insert Sparseout or another layer after its activations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import jit, nn

from sparseout.checks import LayerScale, check_layer_scale, check_p, check_q
from sparseout.layers import Sparseout
from sparseout.structured import Sparseout1d, Sparseout2d, Sparseout3d
from sparseout.surgery import closest, edit
from sparseout.surgery.feed_forward import find_blocks
from sparseout.surgery.report import Chosen, SwapReport, Unreachable, perform
from sparseout.surgery.uses import uses_in

Where = str | Callable[[str, nn.Module], bool] | None
Plan = list[tuple[list[str], nn.Module]]

_SCRIPTED = "torch.jit compiled it: change the model before you compile it"
_REPLACEMENTS: dict[type[nn.Module], Callable[..., Sparseout]] = {
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
    scale: LayerScale = 1.0,
    where: Where = None,
    mapping: Mapping[type[nn.Module], Callable[..., Sparseout]] | None = None,
    inplace: bool = False,
) -> SwapReport:
    """Replace `nn.Dropout`, `nn.Dropout1d`, `2d` and `3d` in `model` by `Sparseout`, `Sparseout1d`, `2d` and `3d`.

    Each new layer keeps the `p`, `inplace`, hooks and training mode of the old module. The `state_dict` keeps its keys;
    `scale="rms"` adds the `running_rms` of each layer. `layer.replaced[0]` keeps the old module for `restore`, outside of the
    model's submodules. A module with several names is replaced by a single layer.

    The report lists the dropout that it leaves alone in `unreachable`: modules that apply dropout inside a single call
    (`nn.LSTM(dropout=...)`, and `nn.MultiheadAttention`, also inside `nn.TransformerEncoderLayer`), `nn.AlphaDropout`, subclasses
    with their own `forward`, modules that `torch.jit` compiled, and probabilities that the model passes to dropout functions. It
    lists new layers that may never be called in `uncalled`, for example in attention that passes the `p` of its dropout to a
    fused kernel. Both lists come from the model's source code, without running it. `check_swap` runs the model to confirm them.

    A `state_dict` does not hold the settings of the layers. If they differ, `load_state_dict` keeps the current `p`, `q` and
    `scale` of the model. Save `report.to_dict()` beside the weights, and call `surgery.apply_report` before loading them.

    Args:
        model: a module that contains dropout modules.
        q: norm of the new layers, at least 0.
        p: drop probability of the new layers in [0, 1]. Default: the `p` of each old module.
        scale: unit of `|x|` in the new layers, a positive number, `"rms"` or `"matched"`: see `Sparseout`.
        where: the modules to replace: a pattern of names such as `"encoder.*"` (`*` also matches dots), or a function of name and
            module. Default: all.
        mapping: further dropout classes. A value is a layer class, which is called with the `p` and `inplace` of the old module;
            or a function from the old module to its new layer, which sets its own `q`, `p` and `scale`.
        inplace: change `model` instead of a copy.

    Returns:
        A `SwapReport`. Its `model` is the changed model.

    Warns:
        UserWarning: nothing was replaced. The message names the closest classes and names in the model.

    Raises:
        TypeError, ValueError: an argument is invalid, `model` is itself a dropout module, or a class in `mapping` has no `p`. The
            model is unchanged in this case.

    >>> import sparseout
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Dropout2d(0.2), nn.Flatten(), nn.Dropout(0.5))
    >>> sparseout.swap_dropout(model, q=1.5)
    2 swapped in a copy: use report.model, or pass inplace=True
      2: Dropout2d(p=0.2, inplace=False) -> Sparseout2d(p=0.2, q=1.5)
      4: Dropout(p=0.5, inplace=False) -> Sparseout(p=0.5, q=1.5)
    >>> sparseout.swap_dropout(model, q=1.5, p=0.3, where=lambda name, module: name == "4").changes[0].new
    Sparseout(p=0.3, q=1.5)
    """
    q, p, scale = check_q(q), p if p is None else check_p(p), check_layer_scale(scale)
    selects, kinds = _selector(where), {**_REPLACEMENTS, **_check_mapping(mapping)}
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
            unreachable += [Unreachable(names[0], f"{type(module).__name__} {call}") for call in uses.functional.get(module, ())]
        else:
            plan.append((names, _build(kinds[known], module, q, p, scale)))
            attributes = {name.rpartition(".")[2] for name in every_name}
            holders = [model.get_submodule(name.rpartition(".")[0]) for name in every_name]
            if reason := uses.why_uncalled(module, attributes, holders):
                uncalled += [Unreachable(name, reason) for name in names]
    if any("" in names for names, _ in plan):
        raise ValueError(f"model must contain the dropout modules, got a {type(model).__name__} itself: use Sparseout directly")
    hint = "" if plan else closest.explain_no_dropout(all_names, tuple(kinds), where)
    return perform(model, "swap", plan, unreachable, inplace, uncalled=uncalled, hint=hint)


def insert_after(
    model: nn.Module,
    kind: type[nn.Module] | tuple[type[nn.Module], ...] | None = None,
    factory: Callable[[Any], nn.Module] | None = None,
    *,
    q: float | None = None,
    p: float | None = None,
    scale: LayerScale = 1.0,
    where: Where = None,
    inplace: bool = False,
) -> SwapReport:
    """Insert `Sparseout(p, q)`, or another layer, after each module of class `kind`, or in each feed-forward block.

    The layer becomes the submodule `sparseout` of the activation, and the class of the activation becomes a subclass that applies
    it to the output. The activation stays the same object. The `state_dict` keeps its keys; `scale="rms"` adds the `running_rms`
    of each layer. An activation with several names or several calls per forward pass gets a single layer, which draws a new mask
    in every call. Activations that already have a layer are left alone.

    `where="mlp"`, without a `kind`, chooses the hidden units of the feed-forward blocks of a transformer: what the linear layer
    reads that leads back to the residual branch. That is the activation, after its dropout if it has one, or in a gated block
    the product `act(gate) * up`. The layer becomes the submodule `sparseout` of this linear layer, and acts on its input. So it
    also works where the activation is a function. Blocks are found by their structure: linear layers from `d` to `h > d` units,
    a known activation, and a later linear layer back to `d`. The report says for each why it was chosen (`chosen`), and lists
    what was left out (`unreachable`), such as experts that hold their weights themselves.

    Args:
        model: any module.
        kind: a class of activations or a tuple of classes, including their subclasses. Some models have their own activation
            classes; `print(model)` shows them. None with `where="mlp"` alone.
        factory: function from an activation to the layer to insert after it, such as one of `sparseout.regularizers`. With
            `where="mlp"`, from the linear layer that reads the units, which can be the `reader` of a penalty. Give either
            `factory`, or `q` and `p`.
        q: norm of the inserted Sparseout layers, at least 0.
        p: their drop probability in [0, 1].
        scale: see `Sparseout`.
        where: `"mlp"`, or as in `swap_dropout`.
        inplace: see `swap_dropout`.

    Returns, warns, raises:
        See `swap_dropout`. TypeError: `factory` does not return a module.

    >>> import sparseout
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> report = sparseout.insert_after(model, nn.ReLU, q=1.0, p=0.2)
    >>> report
    1 inserted in a copy: use report.model, or pass inplace=True
      1: ReLU() + Sparseout(p=0.2, q=1)
    >>> report.model.state_dict().keys() == model.state_dict().keys()
    True
    >>> sparseout.insert_after(model, nn.ReLU, lambda activation: sparseout.regularizers.KWinners(0.1))
    1 inserted in a copy: use report.model, or pass inplace=True
      1: ReLU() + KWinners(k=0.1)
    >>> block = nn.TransformerEncoderLayer(d_model=4, nhead=2, dim_feedforward=8)
    >>> sparseout.insert_after(block, where="mlp", q=1, p=0.1, inplace=True)
    1 inserted
      linear2: Sparseout(p=0.1, q=1) + Linear(in_features=8, out_features=4, bias=True), which reads relu of linear1 (4 -> 8 -> 4)
    """
    build = _check_factory(factory, q, p, scale)
    if where == "mlp":
        if kind is not None:
            raise TypeError(f'kind must be None with where="mlp", which finds layers by their structure, got {kind!r}')
        all_names = edit.names_of(model)
        blocks, left_out = find_blocks(all_names)
        chosen = [Chosen(name, block.reason) for block in blocks for name in block.names]
        in_blocks: Plan = [(block.names, build(block.reader)) for block in blocks]
        hint = "" if blocks else closest.explain_no_block(all_names)
        return perform(model, "insert_before", in_blocks, left_out, inplace, chosen=chosen, hint=hint)
    kinds, selects = _check_kinds(kind), _selector(where)
    plan: Plan = []
    unreachable: list[Unreachable] = []
    for module, names in edit.names_of(model).items():
        if not any(selects(name, module) for name in names) or isinstance(module, edit.WithSparseout):
            continue
        if _is_scripted(module, kinds):
            unreachable.append(Unreachable(names[0], _SCRIPTED))
        elif not isinstance(module, kinds):
            continue
        elif "forward" in vars(module):
            unreachable.append(Unreachable(names[0], f"this {type(module).__name__} has a forward of its own"))
        elif hasattr(module, edit.INSERTED):
            unreachable.append(Unreachable(names[0], f"{type(module).__name__} has its own attribute {edit.INSERTED!r}"))
        elif isinstance(module, nn.Sequential):
            unreachable.append(
                Unreachable(names[0], f"{type(module).__name__} is a container: pass the class of its last module")
            )
        else:
            plan.append((names, build(module)))
    hint = "" if plan else closest.explain_no_kind(edit.names_of(model), kinds, where)
    return perform(model, "insert", plan, unreachable, inplace, hint=hint)


def _check_factory(
    factory: Callable[[Any], nn.Module] | None, q: float | None, p: float | None, scale: LayerScale
) -> Callable[[nn.Module], nn.Module]:
    """Return the function that makes the layer to insert after an activation."""
    if factory is None:
        if q is None or p is None:
            raise TypeError(f"q and p must be numbers if no factory is given, got q={q!r} and p={p!r}")
        norm, probability, unit = check_q(q), check_p(p), check_layer_scale(scale)
        return lambda activation: Sparseout(probability, norm, scale=unit)
    if q is not None or p is not None or scale != 1.0:
        raise TypeError("q, p and scale must not be given with a factory, which makes the layers")

    def build(activation: nn.Module) -> nn.Module:
        layer = factory(activation)
        if not isinstance(layer, nn.Module):
            raise TypeError(f"factory must return a torch.nn.Module, got {layer!r}")
        return layer

    return build


def _build(kind: Any, old: Any, q: float, p: float | None, scale: LayerScale) -> Sparseout:
    if isinstance(kind, type):
        if p is None and not hasattr(old, "p"):
            raise ValueError(f"p must be a number, because {type(old).__name__} has no p to keep, got None")
        built: Sparseout = kind(p=old.p if p is None else p, q=q, inplace=getattr(old, "inplace", False))
        built.scale = scale  # not an argument, because the user's layer classes need not have it
        return built
    new = kind(old)
    if not isinstance(new, Sparseout):
        raise TypeError(f"mapping must give Sparseout layers, got {type(new).__name__} for {type(old).__name__}")
    return new


def _why_not(module: nn.Module, known: type[nn.Module] | None, kinds: Mapping[type[nn.Module], Any], name: str) -> str | None:
    """Return why a dropout module cannot be replaced; None if it can be replaced or is no dropout module."""
    kind = type(module).__name__
    if _is_scripted(module, tuple(kinds)):
        return _SCRIPTED
    if known is None:
        if isinstance(module, nn.RNNBase) and module.dropout > 0 and module.num_layers > 1:
            return f"{kind} applies dropout between its layers inside a single call of torch"
        if isinstance(module, nn.MultiheadAttention) and module.dropout > 0:
            return f"{kind} applies dropout to attention weights inside a single call of torch"
        if isinstance(module, (nn.AlphaDropout, nn.FeatureAlphaDropout)):
            return f"{kind} preserves the mean and variance of SELU, and Sparseout does not"
        return None
    if type(module).forward is not known.forward:
        return f"{kind} overrides the forward of {known.__name__}: add it to mapping"
    if "forward" in vars(module):
        return f"this {kind} has a forward of its own"
    if edit.has_contents(module):
        return f"{kind} holds modules, parameters or buffers, which a swap would lose"
    if name.endswith("_orig_mod"):
        return f"this {kind} is a compiled module: change the model before you compile it"
    return None


def _is_scripted(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> bool:
    return isinstance(module, jit.ScriptModule) and module.original_name in {kind.__name__ for kind in kinds}


def _selector(where: Where) -> Callable[[str, nn.Module], bool]:
    if where is None:
        return lambda name, module: True
    if isinstance(where, str):
        return lambda name, module: fnmatchcase(name, where)
    if not callable(where):
        raise TypeError(f"where must be a pattern of names or a function of name and module, got {where!r}")
    return where


def _check_kinds(kind: Any) -> tuple[type[nn.Module], ...]:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    for each in kinds:
        if not (isinstance(each, type) and issubclass(each, nn.Module)):
            raise TypeError(f"kind must be a module class or a tuple of module classes, got {each!r}")
    return kinds


def _check_mapping(mapping: Any) -> Mapping[type[nn.Module], Callable[..., Sparseout]]:
    mapping = {} if mapping is None else mapping
    if not isinstance(mapping, Mapping):
        raise TypeError(f"mapping must be a dict from module classes to layers, got {type(mapping).__name__}")
    for old, new in mapping.items():
        is_module_class = isinstance(old, type) and issubclass(old, nn.Module)
        gives_layers = issubclass(new, Sparseout) if isinstance(new, type) else callable(new)
        if not (is_module_class and gives_layers):
            raise TypeError(f"mapping must be a dict from module classes to layers, got {old!r}: {new!r}")
    return mapping
