"""A probe's hook: it holds its probe weakly, and stays behind where a model is copied, saved or compiled."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable
from typing import Any

import torch


class Hook:
    """`method(*first, ...)` as a hook of a module, for as long as the object of `method` lives.

    Code that is compiled or exported has nothing of it: `traced(*first)` is called once, while that is done. In a module that was
    unpickled it does nothing.
    """

    def __init__(self, method: Callable[..., None] | None = None, *first: Any, traced: Callable[..., None] | None = None) -> None:
        self._method = None if method is None else weakref.WeakMethod(method)
        self._traced = None if traced is None else weakref.WeakMethod(traced)
        self._first = first
        self._number = next(_NUMBERS)
        if traced is not None:
            _TRACED[self._number] = self

    def __call__(self, *args: Any) -> None:
        if torch.compiler.is_compiling():
            _note(self._number)
            return
        if self._method is not None and (method := self._method()) is not None:
            method(*self._first, *args)

    @property
    def __name__(self) -> str:
        raise AttributeError("torch.jit.script cannot compile the hooks of a Probe or SparsityTarget: call its stop() before")

    def __deepcopy__(self, memo: Any) -> Hook:
        return self

    def __reduce__(self) -> tuple[type[Hook], tuple[()]]:
        return Hook, ()


_NUMBERS = itertools.count()
_TRACED: weakref.WeakValueDictionary[int, Hook] = weakref.WeakValueDictionary()


def _note(number: int) -> None:
    """Say that a hook was met by a compiler, which runs this and leaves it out of what it makes."""
    hook = _TRACED.get(number)
    traced = hook._traced() if hook and hook._traced else None
    if hook and traced:
        traced(*hook._first)


_note._dynamo_marked_constant = True  # type: ignore[attr-defined]  # torch.compiler.assume_constant_result, without importing the compiler
