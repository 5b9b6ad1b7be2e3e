"""The command `sparseout`: finds the command's package, and turns a user's mistake into one line."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

import sparseout
from sparseout.cli.interrupt import stop
from sparseout.errors import UserError

# Flags of which an empty value would be read as the current folder, or as every setting.
NAMES = {"--before", "--csv", "--data", "--data-dir", "--html", "--json", "--layers", "--out", "--parquet", "--where"}
OUT_OF_MEMORY = re.compile(r"can't allocate memory|out of memory|not enough memory|Unable to allocate", re.IGNORECASE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 if a run failed, 2 for a user's mistake, 130 for Ctrl-C.

    A full disk, a folder that cannot be written and a lack of memory are one line and 2 too; any other exception is a bug.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments == ["--version"]:
        print(f"sparseout {sparseout.__version__}")
        return 0
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")  # a terminal without a character shows its number
    try:
        code = _run(arguments)
        if sys.stdout:
            sys.stdout.flush()  # which is when a pipe that broke says so
        return code
    except KeyboardInterrupt as interrupt:
        if not interrupt.args:  # else what was interrupted has said so
            _tell("stopped")
        return 130
    except BrokenPipeError:  # whoever read the output, such as head, has read enough; what is left must go nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        line = _line(error)
        if line is None:
            raise
        _tell(line)
        return 2


def _run(arguments: list[str]) -> int:
    """Import what the commands need, and run the one that was asked for."""
    try:
        import tyro

        from sparseout.cli.bench import bench
        from sparseout.cli.evaluate import evaluate
        from sparseout.cli.probe.command import probe
        from sparseout.cli.results import results
        from sparseout.cli.sample import sample
        from sparseout.cli.study import study_app, sweep_command
        from sparseout.cli.theorem import theorem
    except ModuleNotFoundError as error:
        _tell(f"this command needs {error.name}: pip install 'sparseout[studies]'")
        return 2
    if signal.getsignal(signal.SIGINT) is stop:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    _check(arguments)
    app = tyro.extras.SubcommandApp()
    app.command(name="probe")(_later(probe))
    app.command(study_app(arguments, _later), name="study", help="Run one of the paper's experiments.")
    app.command(name="sweep")(_later(sweep_command()))
    app.command(name="results")(_later(results))
    app.command(name="evaluate")(_later(evaluate))
    app.command(name="sample")(_later(sample))
    app.command(name="theorem")(_later(theorem))
    app.command(name="bench")(_later(bench))
    description = "Control and measure activation sparsity in PyTorch."
    refusal = io.StringIO()
    try:
        with contextlib.redirect_stderr(refusal):
            command = app.cli(prog="sparseout", description=description, args=arguments)
    except SystemExit as ended:
        if ended.code:
            _tell(_refusal(refusal.getvalue()))
        raise
    code: int | None = command()
    return code or 0


def _check(arguments: Sequence[str]) -> None:
    """Raise `UserError` for what no flag can mean: no UTF-8, a NUL, and no name where one must be.

    >>> _check(["probe", "m:f", "--html="])
    Traceback (most recent call last):
    sparseout.errors.UserError: --html must have a value, got ''
    """
    flag = ""
    for argument in arguments:
        flag, equals, value = argument.partition("=") if argument.startswith("--") else (flag, "=", argument)
        name = flag or "the command"
        if not argument.isascii() and argument.encode(errors="replace").decode() != argument:
            raise UserError(f"{name} must be in UTF-8, got {argument!r}")
        if "\0" in argument:
            raise UserError(f"{name} must have no NUL character, got {value!r}")
        if flag in NAMES and equals and not value:
            raise UserError(f"{flag} must have a value, got ''")


def _later(command: Callable[..., Any]) -> Callable[..., Any]:
    """A function with the signature of `command` that calls it later, when the arguments are known to be right."""
    return functools.wraps(command)(lambda *positional, **named: functools.partial(command, *positional, **named))


def _refusal(panel: str) -> str:
    """A panel of tyro's in one line: what it says, and the usage of the argument that it means.

    >>> _refusal("+- Error --+\\n| Error parsing --q: no\\n| parse: ['x'] |\\n| --- |\\n| Help: |\\n| --q FLOAT |\\n+----+\\n")
    "Error parsing --q: no parse: ['x'] (--q FLOAT)"
    """
    lines = [line.strip(" │|") for line in panel.strip().splitlines()[1:]]
    parts = "\n".join(line if line.strip("─-╰╯+") else "\n" for line in lines).split("\n\n")
    said, *rest = filter(str.strip, parts)
    # A list of commands may be several lines long.
    lines = [line for part in rest for line in ([" ".join(part.split())] if "Available" in part else part.splitlines())]
    usage = next((line for line in lines if line.startswith(("--", "Available"))), "")
    return " ".join(said.split()) + (f" ({usage})" if usage else "")


def _line(error: Exception) -> str | None:
    """What to tell of an exception that has its cause outside of this program; None for any other."""
    from sparseout.errors import UserError

    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(str(error))):
        return f"there is not enough memory: {(str(error).splitlines() or [type(error).__name__])[0]}"
    if isinstance(error, OSError) and error.errno is not None:
        named = f"{error.filename}: " if error.filename is not None else ""
        return f"{named}{error.strerror or error}"
    return None


def _tell(line: str) -> None:
    """Print one line to stderr."""
    print("sparseout: " + line.replace("\n", "\\n"), file=sys.stderr)
