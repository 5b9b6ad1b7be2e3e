"""JSON that says what it means: UTF-8, numbers that a float64 or 64 bits hold, no NaN, and no key twice."""

from __future__ import annotations

import json
from typing import Any

import msgspec


def parse(content: bytes) -> Any:
    """The value in `content`.

    Raises:
        ValueError: it is something else; the message is one line.

    >>> parse(b'{"q": 1.5}')
    {'q': 1.5}
    >>> parse(b'{"q": 1.5, "q": 2}')
    Traceback (most recent call last):
    ValueError: the key 'q' is there twice
    """
    try:
        value = msgspec.json.decode(content)
        # A key that is there twice is dropped by the decoder, and its colon with it; escapes can hide colons.
        if b"\\" in content or content.count(b":") != msgspec.json.encode(value).count(b":"):
            json.loads(content, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from error
    except UnicodeDecodeError as error:
        raise ValueError("it is not UTF-8") from error
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} is there twice")
        found[key] = value
    return found
