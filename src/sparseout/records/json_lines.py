"""JSON-lines files: one record per line, and errors that name the line."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sparseout.errors import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from upath import UPath


def lines(path: Path | UPath) -> Iterator[tuple[str, bytes]]:
    """Yield each line of a file with its label for error messages.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    for number, line in enumerate(content.removesuffix(b"\n").split(b"\n") if content else (), 1):
        yield f"{path}, line {number}", line


def to_json(record: Any) -> str:
    """Return `record` as JSON; NaN and infinity become null."""
    return json.dumps(finite(record), allow_nan=False)


def finite(value: Any) -> Any:
    """Return a copy of `value` in which each NaN or infinite float is None, as JSON has neither."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
