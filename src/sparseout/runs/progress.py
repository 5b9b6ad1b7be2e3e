"""Progress bars for countable tasks and for runs in training, and the lines that a command prints."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from sparseout.runs.run import SweepEvent

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
    """The bar of the run in progress: its epochs and its speed in items per second.

    Args:
        bar: a `training_bar`.
        items: the unit of the counts, such as images.
    """

    INTERVAL = 0.2  # seconds between two updates of the bar

    def __init__(self, bar: Progress, items: str) -> None:
        self.bar = bar
        self.items = items
        self._task: TaskID | None = None

    def show(self, event: SweepEvent) -> None:
        """Show a bar for the run that starts, and remove the bar of the run before."""
        if self._task is not None:
            self.bar.remove_task(self._task)
            self._task = None
        config = event.started
        if config is None:
            return
        self._epochs = config.to_dict().get("epochs", 1)
        self._task = self.bar.add_task(config.folder.rsplit("-", 1)[0], total=self._epochs, state="")
        self._count = 0
        self._start = self._shown = time.perf_counter()

    def step(self, epoch: int, fraction: float, count: int) -> None:
        """Show that `fraction` of `epoch` is done, after `count` more items."""
        self._count += count
        now = time.perf_counter()
        if now - self._shown < self.INTERVAL:
            return
        self._shown = now
        rate = self._count / (now - self._start)
        state = f"epoch {epoch} of {self._epochs}, {rate:,.0f} {self.items}/s"
        assert self._task is not None
        self.bar.update(self._task, completed=epoch - 1 + fraction, state=state)


class SweepBar:
    """The progress bar of a sweep, with its counts and the time left. Without a terminal, it prints a line for each run."""

    def __init__(self, bar: Progress, console: Console, total: int, done: int) -> None:
        self.bar = bar
        self.console = console
        self.total = total
        self.done = done
        self.failed = 0
        self.task = bar.add_task("runs", total=total, completed=done, state="")

    def show(self, event: SweepEvent) -> None:
        """Show the counts after an event."""
        ended, failure = event.ended, event.failure
        if ended:
            self.done += not failure
            self.failed += bool(failure)
        state = f"{self.done} of {self.total} done, {event.running} running, {self.failed} failed"
        self.bar.update(self.task, completed=self.done + self.failed, state=state)
        if ended and not self.console.is_terminal:
            name = f"{ended.folder} failed: {failure.reason}" if failure else ended.folder
            self.console.print(f"{state}: {name}", soft_wrap=True)
