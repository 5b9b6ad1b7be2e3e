"""The command `sparseout`: finds the command's function, and prints a user's mistake as one line."""

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
from sparseout.cli.mistakes import explain
from sparseout.errors import UserError

# An empty value of these flags would mean the current folder, or every setting.
NOT_EMPTY = {"--before", "--csv", "--data", "--data-dir", "--filter", "--html", "--json", "--layers", "--out", "--parquet"}
DESCRIPTION = "Control and measure activation sparsity in PyTorch. --version prints the version."
OUT_OF_MEMORY = re.compile(r"can't allocate memory|out of memory|not enough memory|Unable to allocate", re.IGNORECASE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 if a run failed, 2 for a user's mistake, 130 for Ctrl-C.

    A full disk, a folder that cannot be written and a lack of memory also end with one line and code 2. Any other exception
    is a bug and keeps its traceback.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments == ["--version"]:
        print(f"sparseout {sparseout.__version__}")
        return 0
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")  # a terminal that lacks a character shows its code point
    try:
        code = _run(arguments)
        if sys.stdout:
            sys.stdout.flush()  # raises here if the reader has closed the pipe
        return code
    except KeyboardInterrupt as interrupt:
        if not interrupt.args:  # otherwise the command has printed a line of its own
            _print_error("stopped")
        return 130
    except BrokenPipeError:  # a reader such as head has closed the pipe; the rest of the output goes to the null device
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        message = _message(error)
        if message is None:
            raise
        _print_error(message)
        return 2


def _run(arguments: list[str]) -> int:
    """Import the commands' packages and run the requested command."""
    try:
        import tyro

        from sparseout.cli.bench import bench
        from sparseout.cli.evaluate import evaluate
        from sparseout.cli.optimum import optimum
        from sparseout.cli.probe.command import probe
        from sparseout.cli.results import results
        from sparseout.cli.sample import sample
        from sparseout.cli.study import study_app, study_names, sweep
        from sparseout.cli.theorem import theorem
    except ModuleNotFoundError as error:
        _print_error(f"this command needs {error.name}: pip install 'sparseout[studies]'")
        return 2
    if signal.getsignal(signal.SIGINT) is stop:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    _check(arguments)
    app = tyro.extras.SubcommandApp()
    app.command(name="probe")(_deferred(probe))
    studies = study_names(arguments)
    app.command(study_app(studies), name="study", help="Run one of the paper's experiments, or module:OBJECT of your own.")
    others = {command.__name__: command for command in (sweep, results, optimum, evaluate, sample, theorem, bench)}
    for name, command in others.items():
        app.command(name=name)(_deferred(command))
    commands = {"probe": (), "study": studies} | dict.fromkeys(others, ())
    parse = functools.partial(app.cli, prog="sparseout", description=DESCRIPTION)
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            requested = parse(args=arguments)
    except SystemExit as ended:
        if ended.code:
            message, *usage = explain(errors.getvalue(), arguments, commands, functools.partial(_help, parse))
            _print_error(message)
            print(*usage, sep="\n", end="\n" if usage else "", file=sys.stderr)
        raise
    code: int | None = requested()
    return code or 0


def _help(parse: Callable[..., Any], words: list[str]) -> str:
    """Return the help of the command that `words` name."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        parse(args=[*words, "--help"])
    return text.getvalue()


def _check(arguments: Sequence[str]) -> None:
    """Raise `UserError` for arguments that no flag accepts: bytes that are not UTF-8, a NUL, an empty name.

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
        if flag in NOT_EMPTY and equals and not value:
            raise UserError(f"{flag} must have a value, got ''")


def _deferred(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function with the signature of `command` that binds the arguments and leaves the call to the caller."""
    return functools.wraps(command)(lambda *positional, **named: functools.partial(command, *positional, **named))


def _message(error: Exception) -> str | None:
    """Return the message for an exception whose cause lies outside of this program, or None for any other exception."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(str(error))):
        return f"there is not enough memory: {(str(error).splitlines() or [type(error).__name__])[0]}"
    if isinstance(error, OSError) and error.errno is not None:
        prefix = f"{error.filename}: " if error.filename is not None else ""
        return f"{prefix}{error.strerror or error}"
    return None


def _print_error(message: str) -> None:
    """Print `message` to standard error as one line."""
    print("sparseout: " + message.replace("\n", "\\n"), file=sys.stderr)
