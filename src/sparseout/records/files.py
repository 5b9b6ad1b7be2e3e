"""Files on a local disk or in any fsspec store: atomic writes, and reads that report errors instead of raising."""

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


def as_location(path: str | Location) -> Location:
    """Return a path, or the location of a URL such as `s3://bucket/key`, that may be given as a string."""
    if isinstance(path, str):
        return UPath(path) if "://" in path else Path(path)
    return path


def is_file(path: Location) -> bool:
    """Return whether `path` is a file; False for an invalid path, such as one with a NUL or a name that is too long."""
    try:
        return bool(path.is_file())
    except (OSError, ValueError):
        return False


def folders_with(path: Location, file: str) -> list[str]:
    """Return the names of the folders in `path` that contain a file called `file`."""
    if isinstance(path, Path):
        return [name for name in os.listdir(path) if os.path.exists(f"{path}/{name}/{file}")] if path.is_dir() else []
    return [found.split("/")[-2] for found in path.fs.glob(f"{glob.escape(path.path)}/*/{file}")]


def read_files(path: Location, names: Sequence[str], files: Sequence[str]) -> Iterator[tuple[str, dict[str, bytes | Exception]]]:
    """Yield each folder of `names` in `path` with the contents of its `files`, or the error of reading them.

    Missing files are left out.
    """
    if isinstance(path, Path):
        all_found = ({file: read_bytes(path / name / file) for file in files} for name in names)
    else:
        at = f"{path.path}/{{}}/{{}}".format
        fetched = _fetched(path, [at(name, file) for name in names for file in files])
        all_found = ({file: fetched.get(at(name, file), FileNotFoundError()) for file in files} for name in names)
    for name, found in zip(names, all_found, strict=True):
        yield name, {file: content for file, content in found.items() if not isinstance(content, FileNotFoundError)}


def _fetched(path: UPath, files: Sequence[str]) -> dict[str, bytes | Exception]:
    """Fetch several files of a store at once; their names are not taken as patterns."""
    try:
        found: dict[str, bytes | Exception] = path.fs.cat([glob.escape(file) for file in files], on_error="return")
    except FileNotFoundError:  # all of them are missing
        return {}
    return found


def read_bytes(path: Location) -> bytes | Exception:
    """Return the content of a file, or the error of reading it."""
    try:
        return path.read_bytes()
    except OSError as error:
        return error


def content_of(folder: Location, contents: Contents, file: str) -> bytes:
    """Return the content of one file of `folder` out of the `contents` that were read.

    Raises:
        UserError: the file could not be read.
    """
    content = contents[file]
    if isinstance(content, Exception):
        raise UserError(f"{folder / file} cannot be read: {getattr(content, 'strerror', None) or content}") from content
    return content


STALE_SECONDS = 600  # age after which a temporary file of unknown origin counts as abandoned


def write_atomic(path: str | Location, data: bytes) -> None:
    """Write `data` atomically: after a crash, or for a reader, the file is either the old one or the new one.

    Also removes temporary files that dead processes left behind for the same path.

    Raises:
        OSError: the file cannot be written. The error names it, and its previous content is intact.
    """
    path = as_location(path)
    if not isinstance(path, Path):
        path.write_bytes(data)  # stores publish an object only when it is complete
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
            part.unlink(missing_ok=True)  # the disk may be full
        if error.errno is None:
            raise
        raise type(error)(error.errno, error.strerror, str(path)) from error


def check_writable(files: Mapping[str, Path | None]) -> None:
    """Check, before any work is done, that each output file can be written and that no two are the same.

    Args:
        files: paths by the flag that gives them; None where the flag is absent.

    Raises:
        UserError: a file is a folder, cannot be written, or is given twice.
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
    """Remove the temporary files of dead processes in `folder`: those of the file `name`, or of all files."""
    for part in folder.glob(f".{glob.escape(name) or '*'}.*.part"):
        with contextlib.suppress(OSError):  # another process removes it too
            if _is_stale(part):
                part.unlink()


def _is_stale(part: Path) -> bool:
    """Return whether the process that wrote `part` is gone.

    The file name holds the machine, process id and start time. Files of other machines are stale after `STALE_SECONDS`.
    """
    machine, pid, started, _ = (*part.name.split(".")[-2].split("-"), "", "", "", "")[:4]
    if machine != _machine() or not pid.isdigit() or os.name != "posix":
        return time.time() - part.stat().st_mtime > STALE_SECONDS
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # the process runs as another user
        return False
    return _started(int(pid)) != started


def _started(pid: int) -> str:
    """Return the start time of a process, which distinguishes reused process ids; empty if the system has none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


@functools.cache
def _machine() -> str:
    """Return eight hexadecimal digits that identify the machine or container whose process ids these are."""
    try:
        numbers = os.readlink("/proc/self/ns/pid")
    except OSError:
        numbers = ""
    return hashlib.sha256(f"{platform.node()} {numbers}".encode()).hexdigest()[:8]
