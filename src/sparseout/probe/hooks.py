"""Hooks that outlive neither their probe nor a copy of the model, and the process-wide settings under which torch calls hooks."""

from __future__ import annotations

import contextlib
import itertools
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch


class Hook:
    """A module hook that calls `method(*first, ...)` while the owner of `method` is alive, and that does nothing in a copy.

    The hook holds the owner weakly, and unpickles as a hook without a method. A compiler or exporter that meets the hook leaves
    it out of the graph and calls `traced(*first)` once instead.
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
            _report_compilation(self._number)
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


def _report_compilation(number: int) -> None:
    """Call the hook's `traced` method. A compiler runs this function while tracing, and leaves it out of the graph."""
    hook = _TRACED.get(number)
    traced = hook._traced() if hook and hook._traced else None
    if hook and traced:
        traced(*hook._first)


# What torch.compiler.assume_constant_result does, without importing the compiler.
_report_compilation._dynamo_marked_constant = True  # type: ignore[attr-defined]


class SharedContext:
    """A context that several probes may hold at once: the first to enter enters it, and the last to exit exits it."""

    def __init__(self, context: Callable[[], contextlib.AbstractContextManager[Any]]) -> None:
        self._context = context
        self._holders = 0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> None:
        if not self._holders:
            self._stack.enter_context(self._context())
        self._holders += 1

    def __exit__(self, *_: object) -> None:
        self._holders -= 1
        if not self._holders:
            self._stack.close()


@contextlib.contextmanager
def _without_fast_path() -> Iterator[None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


# Compiled code calls no hooks, and neither does the fused evaluation of torch's own transformer layers.
EAGER = SharedContext(lambda: torch.compiler.set_stance("force_eager"))
UNFUSED = SharedContext(_without_fast_path)
