"""Packages that an installation of torch alone lacks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def needed_for(what: str, extra: str) -> Iterator[None]:
    """Imports in this context name the extra to install where a package is missing.

    Raises:
        ModuleNotFoundError: `"<what> needs <package>: pip install 'sparseout[<extra>]'"`.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "sparseout":
            raise
        raise ModuleNotFoundError(f"{what} needs {error.name}: pip install 'sparseout[{extra}]'", name=error.name) from error
