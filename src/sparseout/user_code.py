"""Import of a module that the user names on the command line or in a sweep file. The import runs the module's code."""

from __future__ import annotations

import importlib
import traceback
from types import ModuleType

from sparseout.errors import UserError


def import_module(name: str, wanted: str) -> ModuleType:
    """Import the module `name`.

    Args:
        name: dotted name of the module.
        wanted: what the user may name, for the message about a module that does not exist.

    Raises:
        UserError: there is no such module, or its import fails.
    """
    try:
        return importlib.import_module(name)
    except UserError as error:
        raise UserError(f"{name}: {error}") from error
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            raise UserError(f"no module named {error.name!r}: {wanted}") from error
        raise UserError(f"{name} cannot be imported: {describe(error)}") from error


def describe(error: BaseException) -> str:
    """Return an error in the user's code as one line, with its location."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {first_line(error)} ({frame.filename}:{frame.lineno})"


def first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, or its type if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
