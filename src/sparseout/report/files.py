"""Writing a file so that no reader ever meets half of it, nor a number that its format does not have."""

from __future__ import annotations

import math
import os
import uuid
from pathlib import Path
from typing import Any, TypeAlias

from upath import UPath

Location: TypeAlias = Path | UPath


def write_whole(path: Location, data: bytes) -> None:
    """Write `data` so that a reader, or a crash, meets the old file or the new one and nothing between."""
    if not isinstance(path, Path):
        path.write_bytes(data)  # an object, which a store shows when all of it is there
        return
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)  # it takes up room where there may be none left
        raise


def finite(value: Any) -> Any:
    """`value` as JSON can have it: None for each float in it that is NaN or infinite."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
