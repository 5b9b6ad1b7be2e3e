"""Files that others may have put there: which there are, and what is in them, on a disk or in a store."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from upath import UPath

from sparseout.errors import UserError

Contents = Mapping[str, bytes | Exception]


def is_file(path: Path | UPath) -> bool:
    """Whether there is a file, whatever the path is: one with a NUL, or that is too long, is none."""
    try:
        return bool(path.is_file())
    except (OSError, ValueError):
        return False


def folders_with(path: Path | UPath, file: str) -> list[str]:
    """The names of the folders in `path` that have a file called `file`."""
    if isinstance(path, Path):
        return [name for name in os.listdir(path) if os.path.exists(f"{path}/{name}/{file}")] if path.is_dir() else []
    return [found.split("/")[-2] for found in path.fs.glob(f"{glob.escape(path.path)}/*/{file}")]


def read_files(
    path: Path | UPath, names: Sequence[str], files: Sequence[str]
) -> Iterator[tuple[str, dict[str, bytes | Exception]]]:
    """The contents of those of `files` that the folders `names` in `path` have, or why they cannot be read, folder by folder."""
    if isinstance(path, Path):
        all_found = ({file: read_bytes(path / name / file) for file in files} for name in names)
    else:
        at = f"{path.path}/{{}}/{{}}".format
        fetched = _fetched(path, [at(name, file) for name in names for file in files])
        all_found = ({file: fetched.get(at(name, file), FileNotFoundError()) for file in files} for name in names)
    for name, found in zip(names, all_found, strict=True):
        yield name, {file: content for file, content in found.items() if not isinstance(content, FileNotFoundError)}


def _fetched(path: UPath, files: Sequence[str]) -> dict[str, bytes | Exception]:
    """The contents of files of a store, all at once; names are no patterns."""
    try:
        found: dict[str, bytes | Exception] = path.fs.cat([glob.escape(file) for file in files], on_error="return")
    except FileNotFoundError:  # of them all
        return {}
    return found


def read_bytes(path: Path | UPath) -> bytes | Exception:
    """The content of a file, or why it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        return error


def content_of(folder: Path | UPath, contents: Contents, file: str) -> bytes:
    """What a file of `folder` has, among the `contents` that were read.

    Raises:
        UserError: it could not be read.
    """
    content = contents[file]
    if isinstance(content, Exception):
        raise UserError(f"{folder / file} cannot be read: {getattr(content, 'strerror', None) or content}") from content
    return content
