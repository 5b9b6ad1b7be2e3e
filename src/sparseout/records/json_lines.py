"""JSON-lines files, a record a line, in which a bad line is named."""

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


def to_json(record: Any) -> str:
    """`record` in JSON, which has no NaN: those become null."""
    return json.dumps(finite(record), allow_nan=False)


def finite(value: Any) -> Any:
    """`value` as JSON can have it: None for each float in it that is NaN or infinite."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
