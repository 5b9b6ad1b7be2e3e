"""Facts about the source code of a module: the attributes that it uses, and its calls with a drop probability.

The facts cover the `forward` of a module, all methods of its class, and all functions and methods that these reach.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
import textwrap
import types
from collections import ChainMap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import nn

from sparseout.function_calls import DROPOUTS

Path = tuple[str, ...]

# Keyword arguments that hold a drop probability in calls of any function.
_PROBABILITIES = ("dropout", "dropout_p")
# Names whose use means that code reaches submodules other than by attribute.
_DYNAMIC = {"getattr", "children", "named_children", "modules", "named_modules", "get_submodule", "_modules", "__dict__", "vars"}


@dataclass
class ProbabilityCall:
    """A call that passes a drop probability.

    Attributes:
        function: name of the called function.
        paths: attribute paths from `self` that the probability may come from.
        constant: the largest number that the probability may be; 0 without one.
    """

    function: str
    paths: list[Path]
    constant: float


@dataclass
class Facts:
    """Facts about the code of one function, or of everything that a `forward` reaches.

    Attributes:
        paths: attribute paths from `self`: `self.a.b` is `("a", "b")`.
        called_names: attributes in calls of objects that come from elsewhere than `self`, as in `layer.dropout(x)`.
        variables: names of variables, some of which are functions.
        super_methods: methods that the code gets from `super()`.
        probability_calls: calls that pass a drop probability.
        dynamic: whether the code reaches submodules other than by attribute.
    """

    paths: set[Path] = field(default_factory=set)
    called_names: set[str] = field(default_factory=set)
    variables: set[str] = field(default_factory=set)
    super_methods: set[str] = field(default_factory=set)
    probability_calls: list[ProbabilityCall] = field(default_factory=list)
    dynamic: bool = False


def facts_of(module: nn.Module) -> Facts | None:
    """Return the facts about the code that a call of `module` runs; None if any of this code cannot be read."""
    kind: Any = type(module)
    if "forward" not in vars(module):
        return _reachable_facts(kind, None)
    own = inspect.unwrap(vars(module)["forward"])  # assigned to the instance
    return _reachable_facts(kind, own.__func__) if isinstance(own, types.MethodType) else None


class _Code(NamedTuple):
    """A function, and the index in the class's MRO of the class that defines it as a method; None for a plain function."""

    function: types.FunctionType
    mro_index: int | None


@functools.lru_cache(512)
def _reachable_facts(kind: type[nn.Module], forward: types.FunctionType | None) -> Facts | None:
    """Return the facts about the methods of `kind` and everything that they and `forward` reach."""
    total = Facts()
    pending = [_Code(forward, 0)] if forward else list(_methods(kind, "forward"))
    for name in vars(kind):
        pending += [] if name.startswith("__") else _methods(kind, name)
    seen = set()
    while pending:
        function, mro_index = pending.pop()
        if function in seen:
            continue
        seen.add(function)
        facts = _facts_in(function, mro_index is not None)
        if facts is None:
            return None
        total.paths |= facts.paths
        total.called_names |= facts.called_names
        total.probability_calls += facts.probability_calls
        total.dynamic |= facts.dynamic
        for path in facts.paths:
            pending += _methods(kind, path[0])
        if mro_index is not None:
            for name in facts.super_methods:
                pending += _methods(kind, name, mro_index + 1)
        for name in facts.variables:
            found = _scope(function).get(name)
            if isinstance(found, types.FunctionType) and found.__module__.partition(".")[0] != "torch":
                pending.append(_Code(inspect.unwrap(found), None))
    return total


def _methods(kind: type[nn.Module], name: str, first: int = 0) -> Iterator[_Code]:
    """Yield the method `name` of the first class in the MRO of `kind`, from index `first`, that defines it, if any does."""
    for index, base in enumerate(kind.__mro__[first:], first):
        if base is nn.Module:
            return
        if name in vars(base):
            found = vars(base)[name]
            found = found.fget if isinstance(found, property) else found
            found = inspect.unwrap(getattr(found, "__func__", found)) if callable(found) else found
            if isinstance(found, types.FunctionType):
                yield _Code(found, index)
            return


def _scope(function: types.FunctionType) -> Mapping[str, Any]:
    """Return the variables of `function` that are defined outside of it: those of its closure and its globals."""
    closure = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # the variable is not set yet
            closure[name] = cell.cell_contents
    return ChainMap(closure, function.__globals__)


@functools.lru_cache(512)
def _facts_in(function: types.FunctionType, is_method: bool) -> Facts | None:
    """Return the facts about the body of `function`; None if its source cannot be read."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return None
    if not (tree.body and isinstance(tree.body[0], (ast.FunctionDef, ast.AsyncFunctionDef))):
        return None
    arguments = [*tree.body[0].args.posonlyargs, *tree.body[0].args.args]
    reader = _Reader(arguments[0].arg if is_method and arguments else "", _scope(function))
    for node in tree.body[0].body:
        reader.visit(node)
    return reader.facts


class _Reader(ast.NodeVisitor):
    """Collects the facts about a function body.

    Args:
        self_name: name of the first argument of a method; empty for a plain function.
        scope: variables defined outside of the function.
    """

    def __init__(self, self_name: str, scope: Mapping[str, Any]) -> None:
        self.self_name = self_name
        self.scope = scope
        self.facts = Facts()
        self.assigned: dict[str, ast.expr] = {}

    def visit_Attribute(self, node: ast.Attribute) -> None:
        root, path = _attribute_path(node)
        if path[0] in _DYNAMIC or path[-1] in _DYNAMIC:
            self.facts.dynamic = True
        if not isinstance(root, ast.Name):
            if isinstance(root, ast.Call) and isinstance(root.func, ast.Name) and root.func.id == "super":
                self.facts.super_methods.add(path[0])
            self.visit(root)
        elif root.id == self.self_name:
            self.facts.paths.add(path)

    def visit_Name(self, node: ast.Name) -> None:
        self.facts.variables.add(node.id)

    def visit_If(self, node: ast.If) -> None:
        self._visit_calls(node.test)
        for statement in (*node.body, *node.orelse):
            self.visit(statement)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._visit_calls(node.test)
        self.visit(node.body)
        self.visit(node.orelse)

    def visit_Compare(self, node: ast.Compare) -> None:
        self._visit_calls(node)

    def _visit_calls(self, condition: ast.expr) -> None:
        # A condition such as `self.drop.p > 0` passes no probability on, but its calls count.
        for node in ast.walk(condition):
            if isinstance(node, ast.Call):
                self.visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        for target in node.targets:
            if isinstance(target, ast.Name):
                self.assigned[target.id] = node.value
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id in _DYNAMIC:
            self.facts.dynamic = True
        if isinstance(node.func, ast.Attribute):
            root, path = _attribute_path(node.func)
            if not (isinstance(root, ast.Name) and (root.id == self.self_name or root.id in self.scope)):
                self.facts.called_names |= set(path)
        self._read_probability(node)
        self.generic_visit(node)

    def _read_probability(self, node: ast.Call) -> None:
        name = self._torch_name(node.func)
        keywords = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
        if name in DROPOUTS:
            p, training = DROPOUTS[name].read(node.args, keywords)
            if getattr(training, "value", training) is False:
                return
            paths, constant = self._sources(p, self.assigned) if isinstance(p, ast.expr) else ([], p)
            self.facts.probability_calls.append(ProbabilityCall(name, paths, constant))
        elif chosen := next((keywords[key] for key in _PROBABILITIES if key in keywords), None):
            paths, _ = self._sources(chosen, self.assigned)
            self.facts.probability_calls.append(ProbabilityCall(name or ast.unparse(node.func), paths, 0.0))

    def _torch_name(self, function: ast.expr) -> str:
        """Return the name of a function or module object of torch; empty for any other."""
        root, path = _attribute_path(function)
        found = self.scope.get(root.id) if isinstance(root, ast.Name) else None
        name = found.__name__ if isinstance(found, types.ModuleType) else getattr(found, "__module__", None)
        if str(name).partition(".")[0] != "torch":
            return ""
        return path[-1] if path else getattr(found, "__name__", "")

    def _sources(self, value: ast.expr, assigned: Mapping[str, ast.expr]) -> tuple[list[Path], float]:
        """Return the attribute paths from `self` and the largest number that `value` may come from, ignoring conditions."""
        if isinstance(value, ast.IfExp):
            parts = [self._sources(each, assigned) for each in (value.body, value.orelse)]
        elif isinstance(value, ast.BinOp):
            parts = [self._sources(each, assigned) for each in (value.left, value.right)]
        elif isinstance(value, ast.Name) and value.id in assigned:
            others = {name: expression for name, expression in assigned.items() if name != value.id}  # `p = 2 * p` ends here
            parts = [self._sources(assigned[value.id], others)]
        elif isinstance(value, ast.Constant):
            is_number = isinstance(value.value, (int, float)) and not isinstance(value.value, bool)
            return [], float(value.value) if is_number else 0.0  # type: ignore[arg-type]
        else:
            root, path = _attribute_path(value)
            return ([path] if path and isinstance(root, ast.Name) and root.id == self.self_name else []), 0.0
        return [path for paths, _ in parts for path in paths], max(constant for _, constant in parts)


def _attribute_path(node: ast.expr) -> tuple[ast.expr, Path]:
    """Split `a.b.c` into the expression `a` and the path `("b", "c")`."""
    path: list[str] = []
    while isinstance(node, ast.Attribute):
        path.append(node.attr)
        node = node.value
    return node, tuple(reversed(path))
