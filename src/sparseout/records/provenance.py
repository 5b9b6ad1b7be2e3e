"""Provenance of results: the code, the machine, the date, and the command that reproduces them."""

from __future__ import annotations

import datetime
import functools
import hashlib
import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import sparseout
from sparseout.records.schema import Record


def origin(device: torch.device, processes: int = 1) -> Record:
    """Return the code and machine, on which a run's numbers may depend besides its settings."""
    return {
        **versions(),
        "commit": _commit(),
        "code": _code(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processes": processes,
    }


def versions() -> dict[str, str]:
    """Return the versions of sparseout and of torch."""
    return {"sparseout": sparseout.__version__, "torch": str(torch.__version__)}


def provenance(command: str, device: torch.device) -> Record:
    """Return the code, machine, date, and the command that reproduces the results."""
    return {**origin(device), **dated(command)}


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Describe how two origins differ; empty if they are equal.

    >>> changes({"torch": "2.12", "cores": 2}, {"torch": "2.13", "cores": 2})
    'torch 2.13 after 2.12'
    """
    return ", ".join(f"{name} {now[name]} after {before.get(name)}" for name in now if now[name] != before.get(name))


def dated(command: str) -> Record:
    """Return the date and a command."""
    return {"date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"), "command": command}


@functools.cache
def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


@functools.cache
def _code() -> str:
    """Return a hash of the package's files, which distinguishes two states of a modified checkout."""
    package, digest = Path(sparseout.__file__).parent, hashlib.sha256()
    for path in sorted(path for path in package.rglob("*") if path.suffix in (".py", ".so", ".dll", ".dylib")):
        digest.update(f"{path.relative_to(package)} {hashlib.sha256(path.read_bytes()).hexdigest()}".encode())
    return digest.hexdigest()[:12]


@functools.cache
def _commit() -> str | None:
    """Return the commit of the checkout, with a + if the package was modified; None for an installed package."""
    package = Path(sparseout.__file__).parent
    if package.parent.name != "src":
        return None
    try:
        modified = _git(package, "status", "--porcelain", "--", ".")
        return _git(package, "describe", "--always", "--exclude=*", "--abbrev=12") + ("+" if modified else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True).stdout.strip()
