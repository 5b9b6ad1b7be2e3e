"""Settings of the process that hold while any probe needs them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch


class Shared:
    """A context that several may be in at once, in any order: the first to enter begins it, and the last to leave ends it."""

    def __init__(self, context: Callable[[], contextlib.AbstractContextManager[Any]]) -> None:
        self._context = context
        self._inside = 0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> None:
        if not self._inside:
            self._stack.enter_context(self._context())
        self._inside += 1

    def __exit__(self, *_: object) -> None:
        self._inside -= 1
        if not self._inside:
            self._stack.close()


@contextlib.contextmanager
def _without_fast_path() -> Iterator[None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


# What was compiled ignores hooks, and so does the fused evaluation of torch's own transformer layers.
EAGER = Shared(lambda: torch.compiler.set_stance("force_eager"))
UNFUSED = Shared(_without_fast_path)
