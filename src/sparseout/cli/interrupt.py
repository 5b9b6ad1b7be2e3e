"""Handle Ctrl-C while the command starts, because importing torch takes seconds."""

from __future__ import annotations

import os
import signal
import sys


def stop(*_: object) -> None:
    """Print one line and exit, instead of Python's traceback."""
    os.write(2, b"sparseout: stopped\n")
    os._exit(130)


def _is_command() -> bool:
    """Return whether this process is the command: its script, `python -m sparseout`, or `python -c` with its main function."""
    script = os.path.basename(sys.argv[0]) if sys.argv else ""
    options = list(zip(sys.orig_argv, sys.orig_argv[1:], strict=False))
    return script == "sparseout" or any(
        (option, value) == ("-m", "sparseout") or (option == "-c" and "sparseout.cli.main" in value) for option, value in options
    )


if _is_command() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, stop)
