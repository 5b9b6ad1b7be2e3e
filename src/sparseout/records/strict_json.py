"""Strict JSON: UTF-8, numbers that fit a float64 or a 64-bit integer, no NaN, and no duplicate keys."""

from __future__ import annotations

import json
from typing import Any

import msgspec


def parse(content: bytes) -> Any:
    """Return the value in `content`.

    Raises:
        ValueError: the content is not strict JSON. The message is one line.

    >>> parse(b'{"q": 1.5}')
    {'q': 1.5}
    >>> parse(b'{"q": 1.5, "q": 2}')
    Traceback (most recent call last):
    ValueError: duplicate key 'q'
    """
    try:
        value = msgspec.json.decode(content)
        # The decoder keeps only the last of duplicate keys, so re-encoding yields fewer colons; escapes can hide colons.
        if b"\\" in content or content.count(b":") != msgspec.json.encode(value).count(b":"):
            json.loads(content, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from error
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8") from error
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"duplicate key {key!r}")
        found[key] = value
    return found
