"""Progress bars for countable tasks and for runs in training, and the lines that a command prints."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from sparseout.runs.run import SweepEvent
    from sparseout.training.config import Config
    from sparseout.training.run_progress import RunProgress

DAY = 86400
WIDE = 100  # columns of a terminal with room for the time elapsed


def terminal(quiet: bool = False) -> Console:
    """Return standard output as a console without markup: `[red]` in a folder's name stays text."""
    return Console(quiet=quiet, markup=False, emoji=False, highlight=False)


def progress_bar(console: Console) -> Progress:
    """Return a bar for tasks of several parts, with the time elapsed and the time left."""
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn()
    return Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console)


def training_bar(console: Console) -> Progress:
    """Return a bar for runs, with their state, the time elapsed, if there is room for it, and the time left."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[state]}", markup=False))
    times = (*([TimeElapsedColumn()] if console.width >= WIDE or not console.is_terminal else []), TimeRemainingColumn())
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


class RunBars:
    """A bar for each run in progress: its epochs and steps, its latest loss and sparsity, and the time left.

    Args:
        bar: a `training_bar`.
        items: the unit of the counts, such as images.
        several: whether several runs train at a time; each then has one line instead of two.
    """

    def __init__(self, bar: Progress, items: str, several: bool) -> None:
        self.bar = bar
        self.items = items
        self.several = several
        self._tasks: dict[str, TaskID] = {}
        self._shares: dict[str, float] = {}

    def show(self, event: SweepEvent) -> None:
        """Show a bar for a run that starts, and remove the bar of a run that ends."""
        if event.started:
            config = event.started
            epochs = config.to_dict().get("epochs", 1)
            self._tasks[config.run] = self.bar.add_task(config.folder.rsplit("-", 1)[0], total=epochs, state="starts")
        if event.ended and event.ended.run in self._tasks:
            self.bar.remove_task(self._tasks.pop(event.ended.run))
            self._shares.pop(event.ended.run, None)

    def update(self, config: Config, progress: RunProgress) -> None:
        """Show the progress of a run in progress."""
        self._shares[config.run] = progress.epochs_done / progress.epochs
        epoch, measured = f"epoch {progress.epoch}/{progress.epochs}", _measured(progress)
        speed = f"step {progress.step}/{progress.steps}, {progress.rate:,.0f} {self.items}/s"
        state = f"{epoch}, {measured}" if self.several else f"{epoch}, {speed}\n{measured}"
        self.bar.update(self._tasks[config.run], completed=progress.epochs_done, total=progress.epochs, state=state)

    @property
    def runs_done(self) -> float:
        """The sum of the completed fractions of the runs in progress."""
        return sum(self._shares.values())


def _measured(progress: RunProgress) -> str:
    loss = "not finite" if progress.loss is None else f"{progress.loss:.4g}"
    return f"loss {loss}" + ("" if progress.sparsity is None else f", {progress.measure} {progress.sparsity:.3f}")


class SweepBar:
    """The progress bar of a sweep, with its counts and the time left. Without a terminal, it prints a line for each run."""

    def __init__(self, bar: Progress, console: Console, total: int, done: int) -> None:
        self.bar = bar
        self.console = console
        self.total = total
        self.done = done
        self.failed = 0
        self.task = bar.add_task("runs", total=total, completed=done, state="")

    def show(self, event: SweepEvent, runs_done: float) -> None:
        """Show the counts after an event, where `runs_done` is the sum of the completed fractions of the runs in progress."""
        ended, failure = event.ended, event.failure
        if ended:
            self.done += not failure
            self.failed += bool(failure)
        state = f"{self.done} of {self.total} done, {event.running} running, {self.failed} failed"
        self.bar.update(self.task, state=state)
        self.update(runs_done)
        if ended and not self.console.is_terminal:
            name = f"{ended.folder} failed: {failure.reason}" if failure else ended.folder
            self.console.print(f"{state}: {name}", soft_wrap=True)

    def update(self, runs_done: float) -> None:
        """Show that the completed fractions of the runs in progress have this sum."""
        self.bar.update(self.task, completed=self.done + self.failed + runs_done)
