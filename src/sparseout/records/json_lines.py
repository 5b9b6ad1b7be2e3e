"""JSON-lines files, a record a line, in which a bad line is named."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sparseout.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from upath import UPath


def lines(path: Path | UPath) -> Iterator[tuple[str, bytes]]:
    """Each line of the file, with what to call it in messages.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    for number, line in enumerate(content.removesuffix(b"\n").split(b"\n") if content else (), 1):
        yield f"{path}, line {number}", line
