"""Files on a local disk or in any store that fsspec knows: atomic writes, and reads that report what is wrong."""

from __future__ import annotations

import contextlib
import errno
import functools
import glob
import hashlib
import os
import platform
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from upath import UPath

from sparseout.errors import UserError

Location: TypeAlias = Path | UPath
Contents = Mapping[str, bytes | Exception]


def is_file(path: Location) -> bool:
    """Whether there is a file, whatever the path is: one with a NUL, or that is too long, is none."""
    try:
        return bool(path.is_file())
    except (OSError, ValueError):
        return False


def folders_with(path: Location, file: str) -> list[str]:
    """The names of the folders in `path` that have a file called `file`."""
    if isinstance(path, Path):
        return [name for name in os.listdir(path) if os.path.exists(f"{path}/{name}/{file}")] if path.is_dir() else []
    return [found.split("/")[-2] for found in path.fs.glob(f"{glob.escape(path.path)}/*/{file}")]


def read_files(path: Location, names: Sequence[str], files: Sequence[str]) -> Iterator[tuple[str, dict[str, bytes | Exception]]]:
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


def read_bytes(path: Location) -> bytes | Exception:
    """The content of a file, or why it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        return error


def content_of(folder: Location, contents: Contents, file: str) -> bytes:
    """What a file of `folder` has, among the `contents` that were read.

    Raises:
        UserError: it could not be read.
    """
    content = contents[file]
    if isinstance(content, Exception):
        raise UserError(f"{folder / file} cannot be read: {getattr(content, 'strerror', None) or content}") from content
    return content


STALE_SECONDS = 600  # seconds after which a file that is not whole, and says not whose it is, is nobody's any more


def write_atomic(path: Location, data: bytes) -> None:
    """Write `data` so that a reader, or a crash, meets the old file or the new one and nothing between.

    What a process that died left half written of the same file goes.

    Raises:
        OSError: the file cannot be written, with its name; what it held before is intact.
    """
    if not isinstance(path, Path):
        path.write_bytes(data)  # an object, which a store shows when all of it is there
        return
    if not path.name:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    part = path.with_name(f".{path.name}.{_machine()}-{os.getpid()}-{_started(os.getpid())}-{uuid.uuid4().hex[:8]}.part")
    try:
        remove_stale_parts(path.parent, path.name)
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)  # it takes up room where there may be none left
        if error.errno is None:
            raise
        raise type(error)(error.errno, error.strerror, str(path)) from error


def check_writable(files: Mapping[str, Path | None]) -> None:
    """Raise unless each of the files that are given, by the flag that gives it, can be written, and none is another.

    Raises:
        UserError: one cannot, as `write_atomic` would find when there is something to lose.
    """
    flags: dict[Path, str] = {}
    for flag, path in files.items():
        if path is None:
            continue
        try:
            if path.is_dir():
                raise UserError(f"{flag} must be a file, got the folder {path}")
            with tempfile.TemporaryFile(dir=path.parent):
                pass
            other = flags.setdefault(path.resolve(), flag)
        except OSError as error:
            raise UserError(f"{flag} cannot be written: {path}: {error.strerror or error}") from error
        if other != flag:
            raise UserError(f"{flag} must be another file than {other}, got {path} for both")


def remove_stale_parts(folder: Path, name: str = "") -> None:
    """Remove what processes that died left half written in `folder`: of the file called `name`, or of every file."""
    for part in folder.glob(f".{glob.escape(name) or '*'}.*.part"):
        with contextlib.suppress(OSError):  # another process clears it too
            if _is_left(part):
                part.unlink()


def _is_left(part: Path) -> bool:
    """Whether nobody writes this file any more. Its name says who did; another machine's processes cannot be seen."""
    machine, pid, started, _ = (*part.name.split(".")[-2].split("-"), "", "", "", "")[:4]
    if machine != _machine() or not pid.isdigit() or os.name != "posix":
        return time.time() - part.stat().st_mtime > STALE_SECONDS
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it runs, as another user
        return False
    return _started(int(pid)) != started


def _started(pid: int) -> str:
    """When a process started, which tells it from a later one of the same number; empty where the system does not say."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


@functools.cache
def _machine() -> str:
    """Eight digits for what gives processes their numbers: this machine, or the container on it."""
    try:
        numbers = os.readlink("/proc/self/ns/pid")
    except OSError:
        numbers = ""
    return hashlib.sha256(f"{platform.node()} {numbers}".encode()).hexdigest()[:8]
