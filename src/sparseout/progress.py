"""A progress bar for loops that take more than a second."""

from __future__ import annotations

import contextlib
import html
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

_T = TypeVar("_T")
_DELAY = 1.0  # seconds before a bar appears
_INTERVAL = 0.2  # seconds between two updates in a notebook


def track(items: Iterable[_T], description: str, total: int | None = None) -> Iterator[_T]:
    """Yield `items`, and show how many are done once they take more than a second, as `counting` does.

    Args:
        items: what to iterate over.
        description: what the items are, at the left of the bar.
        total: number of items. Default: `len(items)`, if it has a length.

    >>> list(track(range(3), "batches"))
    [0, 1, 2]
    """
    if total is None:
        with contextlib.suppress(TypeError):
            total = len(items)  # type: ignore[arg-type]
    with counting(description, total) as advance:
        for item in items:
            yield item
            advance()


@contextlib.contextmanager
def counting(description: str, total: int | None = None) -> Iterator[Callable[[], None]]:
    """Yield a function that counts one item, and shows the count once the context has lasted for more than a second.

    The bar is drawn by rich on standard error if that is a terminal, and as HTML in a notebook. It disappears at the end. Nothing
    is shown elsewhere, or if rich is not installed.
    """
    start, done = time.monotonic(), 0
    show: Callable[[int], None] | None = None
    with contextlib.ExitStack() as stack:

        def advance() -> None:
            nonlocal done, show
            done += 1
            if show is None and time.monotonic() - start > _DELAY:
                show = stack.enter_context(_bar(description, total, start))
            if show:
                show(done)

        yield advance


@contextlib.contextmanager
def _bar(description: str, total: int | None, start: float) -> Iterator[Callable[[int], None]]:
    """Show a bar, and yield the function that sets the number of items done."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if getattr(shell, "kernel", None) is not None:
        with _notebook_bar(description, total, start) as update:
            yield update
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    except ModuleNotFoundError:
        yield lambda done: None
        return
    console = Console(stderr=True)
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn()
    times = TimeElapsedColumn(), TimeRemainingColumn()
    with Progress(*columns, *times, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(description, total=total)
        yield lambda done: progress.update(task, completed=done)


@contextlib.contextmanager
def _notebook_bar(description: str, total: int | None, start: float) -> Iterator[Callable[[int], None]]:
    """Show a bar of HTML, which needs no widgets. Rich needs `ipywidgets` to update its own bar."""
    from IPython.display import HTML, display

    last = 0.0
    handle: Any = display(HTML(""), display_id=True)

    def update(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < _INTERVAL:
            return
        last = now
        known = f' value="{done}" max="{total}"' if total else ""
        count = f"{done} of {total}" if total else str(done)
        text = f"{html.escape(description)} <progress{known}></progress> {count}, {now - start:.0f} s"
        handle.update(HTML(f"<div>{text}</div>"))

    try:
        yield update
    finally:
        handle.update(HTML(""))
