"""Optional dependencies: errors that name the extra to install."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from sparseout.errors import MissingPackageError


@contextlib.contextmanager
def needed_for(feature: str, extra: str) -> Iterator[None]:
    """Return a context in which the import of a missing package raises an error that names the extra to install.

    Raises:
        MissingPackageError: `"<feature> needs <package>: pip install 'sparseout[<extra>]'"`.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "sparseout":
            raise
        raise MissingPackageError(f"{feature} needs {error.name}: pip install 'sparseout[{extra}]'", name=error.name) from error
