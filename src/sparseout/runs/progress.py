"""Progress bars for countable tasks and for runs in training, and the lines that a command prints."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

DAY = 86400


def terminal(quiet: bool = False) -> Console:
    """Return standard output as a console without markup: `[red]` in a folder's name stays text."""
    return Console(quiet=quiet, markup=False, emoji=False, highlight=False)


def progress_bar(console: Console) -> Progress:
    """Return a bar for tasks of several parts, with the time elapsed and the time left."""
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn()
    return Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console)


def training_bar(console: Console) -> Progress:
    """Return a bar for runs, with their state and speed, the time elapsed and the time left."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[state]}", markup=False))
    times = TimeElapsedColumn(), TimeRemainingColumn()
    return Progress(*columns, *times, console=console, speed_estimate_period=DAY)


def duration(seconds: float) -> str:
    """Return a time as text with two significant digits.

    >>> duration(4.2), duration(90), duration(5 * 3600), duration(5 * 86400)
    ('4.2 s', '1.5 min', '5 h', '5 days')
    """
    seconds = seconds if seconds > 0 else 0.0  # the clock may have been set back
    for unit, size in (("days", DAY), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds:.2g} s"


def print_left_out(reasons: Iterable[str]) -> None:
    """Print to standard error a line for each folder or record that is left out."""
    for reason in reasons:
        line = reason.replace("\n", "\\n")
        print(f"sparseout: left out: {line}", file=sys.stderr)


class RunBar:
    """The bar of a run: its epochs and its speed in items per second.

    Args:
        bar: a `training_bar`.
        name: the run's name.
        epochs: the total number of epochs.
        items: the unit of the counts, such as images.
    """

    INTERVAL = 0.2  # seconds between two updates of the bar

    def __init__(self, bar: Progress, name: str, epochs: int, items: str) -> None:
        self.bar = bar
        self.items = items
        self.epochs = epochs
        self.task: TaskID = bar.add_task(name, total=epochs, state="")
        self._count = 0
        self._start = self._shown = time.perf_counter()

    def show(self, epoch: int, fraction: float, count: int) -> None:
        """Show that `fraction` of `epoch` is done, after `count` more items."""
        self._count += count
        now = time.perf_counter()
        if now - self._shown < self.INTERVAL:
            return
        self._shown = now
        rate = self._count / (now - self._start)
        state = f"epoch {epoch} of {self.epochs}, {rate:,.0f} {self.items}/s"
        self.bar.update(self.task, completed=epoch - 1 + fraction, state=state)

    def close(self) -> None:
        """Remove the bar."""
        self.bar.remove_task(self.task)
