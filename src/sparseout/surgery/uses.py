"""How the code of a model uses its dropout, read from its source: nothing is run.

A module may be in a model and never be called: attention code reads `self.dropout.p` and hands it to a fused kernel. And code may
drop out with no module at all, by `F.dropout(x, self.p)`.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
import textwrap
import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from sparseout.function_calls import DROPOUTS

_PROBABILITIES = ("dropout", "dropout_p")
# Code that reaches modules by other ways than their names.
_DYNAMIC = {"getattr", "children", "named_children", "modules", "named_modules", "get_submodule", "_modules", "__dict__", "vars"}
_CALLS = ("forward", "__call__")
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)

Path = tuple[str, ...]


@dataclass
class Uses:
    """What the modules of a model do with one another.

    Attributes:
        called: modules that code calls, or hands on as a value.
        read: modules of which code reads the `p`, with the class that the code belongs to.
        named: names by which code calls what it reached by another way than from `self`, as in `layer.dropout(x)`.
        unread: modules whose code cannot be read.
        dynamic: modules whose code reaches others by other ways than their names.
        drops: modules whose code drops out by a function, each with its calls in words.
    """

    called: set[nn.Module] = field(default_factory=set)
    read: dict[nn.Module, str] = field(default_factory=dict)
    named: set[str] = field(default_factory=set)
    unread: set[nn.Module] = field(default_factory=set)
    dynamic: set[nn.Module] = field(default_factory=set)
    drops: dict[nn.Module, list[str]] = field(default_factory=dict)

    def why_uncalled(self, module: nn.Module, attributes: set[str], holders: Iterable[nn.Module]) -> str:
        """Why `module`, which `holders` hold by `attributes`, may never be called; empty if nothing speaks for that."""
        called = self._may_call(module, attributes)
        if module in self.read:
            its = self.read[module]
            never, sometimes = f"{its} never calls it: it reads", f"{its} calls it in some settings, and in others reads"
            return f"{sometimes if called else never} its p, which goes on setting plain dropout"
        for holder in holders:
            its = type(holder).__name__
            if holder in self.unread:
                return f"the code of {its} cannot be read"
            if not (called or holder in self.dynamic or _is_container(holder)):
                return f"no code of {its} calls it"
        return ""

    def _may_call(self, module: nn.Module, attributes: set[str]) -> bool:
        return module in self.called or bool(self.named & attributes)


def uses_in(modules: Iterable[nn.Module]) -> Uses:
    """Read the code that runs when each of `modules`, all those of a model, is called."""
    uses = Uses()
    for module in modules:
        if _is_of_torch(module):
            continue
        facts = _facts_of(module)
        if facts is None:
            uses.unread.add(module)
            continue
        if facts.dynamic:
            uses.dynamic.add(module)
        uses.named |= facts.named
        for path in facts.paths:
            holder, rest = _follow(module, path)
            if not rest or rest[0] in _CALLS:
                uses.called.add(holder)
            elif rest == ("p",) and holder is not module:
                uses.read[holder] = type(module).__name__
        calls = dict.fromkeys(words for call in facts.calls for words in _in_words(module, call))
        if calls:
            uses.drops[module] = list(calls)
    return uses


def _in_words(module: nn.Module, call: _Call) -> Iterator[str]:
    """A call of `module` that drops out: by a number of its own, or by one that it finds there."""
    if 0 < call.constant <= 1:
        yield f"calls {call.name} with p={call.constant:g}"
    for path in call.paths:
        holder, rest = _follow(module, path)
        # A child's p is the child's.
        value = _number(holder, rest) if holder is module or rest != ("p",) else 0.0
        if value:
            yield f"hands its {'.'.join(path)}={value:g} to {call.name}"


def _is_of_torch(module: nn.Module) -> bool:
    """Whether `module` is one of torch's, or ours, whose code calls nothing that a swap would reach."""
    home = type(module).__module__
    if home.startswith("torch.nn.modules."):
        return not module._modules
    return home.partition(".")[0] in ("torch", "sparseout")


def _is_container(module: nn.Module) -> bool:
    """Whether `module` calls what it holds in turn, or leaves that to the module that holds it."""
    return isinstance(module, _CONTAINERS) or type(module).forward is nn.Module.forward


def _follow(module: nn.Module, path: Path) -> tuple[nn.Module, Path]:
    """The module that `path` leads to, and what is left of the path where that goes on to something else."""
    for place, name in enumerate(path):
        child = module._modules.get(name)
        if child is None:
            return module, path[place:]
        module = child
    return module, ()


def _number(module: nn.Module, path: Path) -> float:
    """The probability at `path`, or 0 where there is none."""
    try:
        value = functools.reduce(getattr, path, module)
    except AttributeError:
        return 0.0
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= 1 else 0.0


@dataclass
class _Call:
    """A call with a drop probability: where that comes from, paths from `self` or a number."""

    name: str
    paths: list[Path]
    constant: float


@dataclass
class _Facts:
    """What the code of a function, or of all that a `forward` reaches, does. A path counts from `self`."""

    paths: set[Path] = field(default_factory=set)
    named: set[str] = field(default_factory=set)
    functions: set[str] = field(default_factory=set)
    supers: set[str] = field(default_factory=set)
    calls: list[_Call] = field(default_factory=list)
    dynamic: bool = False


def _facts_of(module: nn.Module) -> _Facts | None:
    forward = vars(module).get("forward")
    forward = getattr(inspect.unwrap(forward), "__func__", None) if forward is not None else None
    kind: Any = type(module)
    return None if "forward" in vars(module) and forward is None else _reached(kind, forward)


@functools.lru_cache(512)
def _reached(kind: type[nn.Module], forward: Any) -> _Facts | None:
    """What the methods of `kind` do, and all that they and `forward` reach; None if a part of it cannot be read."""
    total = _Facts()
    pending: list[tuple[Any, int]] = [(forward, 0)] if forward else list(_methods(kind, "forward", 0))
    for name in vars(kind):
        pending += [] if name.startswith("__") else _methods(kind, name, 0)
    seen = set()
    while pending:
        function, place = pending.pop()
        if function in seen:
            continue
        seen.add(function)
        facts = _facts_in(function, place >= 0)
        if facts is None:
            return None
        total.paths |= facts.paths
        total.named |= facts.named
        total.calls += facts.calls
        total.dynamic |= facts.dynamic
        for path in facts.paths:
            pending += _methods(kind, path[0], 0)
        for name in facts.supers:
            pending += _methods(kind, name, place + 1)
        for name in facts.functions:
            found = _scope(function).get(name)
            if isinstance(found, types.FunctionType) and found.__module__.partition(".")[0] != "torch":
                pending.append((inspect.unwrap(found), -1))
    return total


def _scope(function: Any) -> dict[str, Any]:
    """The names that a function finds outside itself."""
    scope = dict(function.__globals__)
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # an empty cell
            scope[name] = cell.cell_contents
    return scope


def _methods(kind: type[nn.Module], name: str, first: int) -> Iterator[tuple[Any, int]]:
    """The method of that name in the first class after place `first` of the order of resolution that has one."""
    for place, base in enumerate(kind.__mro__[first:], first):
        if base is nn.Module:
            return
        if name in vars(base):
            found = vars(base)[name]
            found = found.fget if isinstance(found, property) else found
            found = inspect.unwrap(getattr(found, "__func__", found)) if callable(found) else found
            if isinstance(found, types.FunctionType):
                yield found, place
            return


@functools.lru_cache(512)
def _facts_in(function: Any, method: bool) -> _Facts | None:
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return None
    if not (tree.body and isinstance(tree.body[0], (ast.FunctionDef, ast.AsyncFunctionDef))):
        return None
    arguments = [*tree.body[0].args.posonlyargs, *tree.body[0].args.args]
    reader = _Reader(arguments[0].arg if method and arguments else "", _scope(function))
    for node in tree.body[0].body:
        reader.visit(node)
    return reader.facts


class _Reader(ast.NodeVisitor):
    """Walks through the body of a function."""

    def __init__(self, itself: str, scope: Mapping[str, Any]) -> None:
        self.itself = itself
        self.scope = scope
        self.facts = _Facts()
        self.local: dict[str, ast.expr] = {}

    def visit_Attribute(self, node: ast.Attribute) -> None:
        root, path = _chain(node)
        if path[0] in _DYNAMIC or path[-1] in _DYNAMIC:
            self.facts.dynamic = True
        if not isinstance(root, ast.Name):
            if isinstance(root, ast.Call) and isinstance(root.func, ast.Name) and root.func.id == "super":
                self.facts.supers.add(path[0])
            self.visit(root)
        elif root.id == self.itself:
            self.facts.paths.add(path)

    def visit_Name(self, node: ast.Name) -> None:
        self.facts.functions.add(node.id)

    def visit_If(self, node: ast.If) -> None:
        self._look(node.test)
        for statement in (*node.body, *node.orelse):
            self.visit(statement)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._look(node.test)
        self.visit(node.body)
        self.visit(node.orelse)

    def _look(self, test: ast.expr) -> None:
        # To look at a p hands it to no one; what is called in a test is called.
        for node in ast.walk(test):
            if isinstance(node, ast.Call):
                self.visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        self._look(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            if isinstance(target, ast.Name):
                self.local[target.id] = node.value
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id in _DYNAMIC:
            self.facts.dynamic = True
        if isinstance(node.func, ast.Attribute):
            root, path = _chain(node.func)
            if not (isinstance(root, ast.Name) and (root.id == self.itself or root.id in self.scope)):
                self.facts.named |= set(path)
        self._read_probability(node)
        self.generic_visit(node)

    def _read_probability(self, node: ast.Call) -> None:
        name = self._torch_name(node.func)
        given = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
        if name in DROPOUTS:
            p, training = DROPOUTS[name].read(node.args, given)
            if getattr(training, "value", training) is False:
                return
            paths, constant = self._sources(p) if isinstance(p, ast.expr) else ([], p)
            self.facts.calls.append(_Call(name, paths, constant))
        elif chosen := next((given[key] for key in _PROBABILITIES if key in given), None):
            paths, _ = self._sources(chosen)
            self.facts.calls.append(_Call(name or ast.unparse(node.func), paths, 0.0))

    def _torch_name(self, function: ast.expr) -> str:
        """The name of a function of torch, or of an object of its modules; empty for any other."""
        root, path = _chain(function)
        found = self.scope.get(root.id) if isinstance(root, ast.Name) else None
        name = found.__name__ if isinstance(found, types.ModuleType) else getattr(found, "__module__", None)
        if str(name).partition(".")[0] != "torch":
            return ""
        return path[-1] if path else getattr(found, "__name__", "")

    def _sources(self, value: ast.expr) -> tuple[list[Path], float]:
        """The paths from `self` in an expression, and the largest number in it; its tests do not count."""
        if isinstance(value, ast.IfExp):
            parts = [self._sources(value.body), self._sources(value.orelse)]
        elif isinstance(value, ast.BinOp):
            parts = [self._sources(value.left), self._sources(value.right)]
        elif isinstance(value, ast.Name) and value.id in self.local:
            parts = [self._sources(self.local.pop(value.id))]
        elif isinstance(value, ast.Constant):
            number = value.value if isinstance(value.value, (int, float)) and not isinstance(value.value, bool) else 0.0
            return [], float(number)
        else:
            root, path = _chain(value)
            return ([path] if path and isinstance(root, ast.Name) and root.id == self.itself else []), 0.0
        return [path for paths, _ in parts for path in paths], max(constant for _, constant in parts)


def _chain(node: ast.expr) -> tuple[ast.expr, Path]:
    """`a.b.c` as the expression `a` and `("b", "c")`."""
    path: list[str] = []
    while isinstance(node, ast.Attribute):
        path.append(node.attr)
        node = node.value
    return node, tuple(reversed(path))
