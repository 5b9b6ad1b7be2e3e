"""How a model uses its dropout modules, according to its source code. The model does not run.

A model can contain a module without calling it: attention code may read `self.dropout.p` and pass it to a fused kernel. And code
can apply dropout without a module, as in `F.dropout(x, self.p)`.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from torch import nn

from sparseout.surgery.source import Path, ProbabilityCall, facts_of

_CALLS = ("forward", "__call__")
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass
class Uses:
    """How the modules of a model use each other.

    Attributes:
        called: modules that code calls or passes on as values.
        p_readers: modules whose `p` is read elsewhere, with the name of the class that reads it.
        called_names: attributes in calls of objects that come from elsewhere than `self`, as in `layer.dropout(x)`.
        unreadable: modules whose source code cannot be read.
        dynamic: modules whose code reaches submodules other than by attribute.
        functional: for each module that passes a drop probability to a function, a phrase per call.
    """

    called: set[nn.Module] = field(default_factory=set)
    p_readers: dict[nn.Module, str] = field(default_factory=dict)
    called_names: set[str] = field(default_factory=set)
    unreadable: set[nn.Module] = field(default_factory=set)
    dynamic: set[nn.Module] = field(default_factory=set)
    functional: dict[nn.Module, list[str]] = field(default_factory=dict)

    def why_uncalled(self, module: nn.Module, attributes: set[str], holders: Iterable[nn.Module]) -> str:
        """Return why `module` may never be called; empty if the code gives no reason for that.

        Args:
            attributes: the names of `module` in the modules that hold it.
            holders: the modules that hold it.
        """
        called = module in self.called or bool(self.called_names & attributes)
        if module in self.p_readers:
            reader = self.p_readers[module]
            if called:
                return f"{reader} calls it in some settings, and in others reads its p for functional dropout"
            return f"{reader} never calls it, and reads its p for functional dropout"
        for holder in holders:
            kind = type(holder).__name__
            if holder in self.unreadable:
                return f"the source code of {kind} cannot be read"
            if not (called or holder in self.dynamic or _is_container(holder)):
                return f"no code of {kind} calls it"
        return ""


def uses_in(modules: Iterable[nn.Module]) -> Uses:
    """Read the source code of `modules`, all modules of a model, and return how they use each other."""
    uses = Uses()
    for module in modules:
        if _is_from_torch(module):
            continue
        facts = facts_of(module)
        if facts is None:
            uses.unreadable.add(module)
            continue
        if facts.dynamic:
            uses.dynamic.add(module)
        uses.called_names |= facts.called_names
        for path in facts.paths:
            target, rest = _follow(module, path)
            if not rest or rest[0] in _CALLS:
                uses.called.add(target)
            elif rest == ("p",) and target is not module:
                uses.p_readers[target] = type(module).__name__
        phrases = dict.fromkeys(phrase for call in facts.probability_calls for phrase in _phrases(module, call))
        if phrases:
            uses.functional[module] = list(phrases)
    return uses


def _phrases(module: nn.Module, call: ProbabilityCall) -> Iterator[str]:
    """Yield a phrase for each positive probability, constant or attribute, that `call` may pass in `module`."""
    if 0 < call.constant <= 1:
        yield f"calls {call.function} with p={call.constant:g}"
    for path in call.paths:
        target, rest = _follow(module, path)
        # The p of a submodule counts as a use of the submodule.
        value = _probability(target, rest) if target is module or rest != ("p",) else 0.0
        if value:
            yield f"passes its {'.'.join(path)}={value:g} to {call.function}"


def _is_from_torch(module: nn.Module) -> bool:
    """Whether `module` belongs to torch or Sparseout, and its code calls no module that a swap can replace."""
    home = type(module).__module__
    if home.startswith("torch.nn.modules."):
        return not module._modules
    return home.partition(".")[0] in ("torch", "sparseout")


def _is_container(module: nn.Module) -> bool:
    """Whether `module` calls all its submodules, or leaves their calls to the module that holds it."""
    return isinstance(module, _CONTAINERS) or type(module).forward is nn.Module.forward


def _follow(module: nn.Module, path: Path) -> tuple[nn.Module, Path]:
    """Return the last module along `path`, and the rest of the path, which leads to another attribute."""
    for position, name in enumerate(path):
        child = module._modules.get(name)
        if child is None:
            return module, path[position:]
        module = child
    return module, ()


def _probability(module: nn.Module, path: Path) -> float:
    """Return the probability at `path`, or 0 if there is none."""
    try:
        value = operator.attrgetter(".".join(path))(module)
    except AttributeError:
        return 0.0
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= 1 else 0.0
