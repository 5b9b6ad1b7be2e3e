"""Checkpoints: the complete state of a run in one safetensors file. Loading one executes no code, as a pickle could."""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sparseout.errors import UserError
from sparseout.records.files import Location, write_atomic


def save_checkpoint(path: Location, run: str, state: Mapping[Any, Any]) -> None:
    """Write the state of a run to `path` atomically.

    Args:
        path: the file; it keeps the previous checkpoint until the new one is complete.
        run: the run's hash, which `load_checkpoint` compares.
        state: nested dictionaries whose leaves are tensors or JSON values.

    Raises:
        UserError: the file cannot be written.
    """
    leaves = {json.dumps(keys): leaf for keys, leaf in _leaves(state)}
    tensors = {name: leaf for name, leaf in leaves.items() if isinstance(leaf, Tensor)}
    values = json.dumps({name: leaf for name, leaf in leaves.items() if name not in tensors})
    try:
        save_tensors(path, tensors, {"run": run, "values": values, "sha256": _digest(run, values, tensors)})
    except OSError as error:
        raise UserError(f"{path} could not be written ({error.strerror or error}): its previous content is intact") from error


def load_checkpoint(path: Location, run: str) -> dict[Any, Any]:
    """Return the state in `path`, with its tensors on the CPU.

    Raises:
        UserError: the file cannot be read, has a wrong checksum, or belongs to another run.
    """
    try:
        with local(path) as copy, safe_open(copy, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        found, values, digest = (metadata[name] for name in ("run", "values", "sha256"))
        if digest != _digest(found, values, tensors):
            raise ValueError("its content does not match its checksum")
        state = _tree(json.loads(values) | tensors)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} cannot be resumed from: delete it to start that run again ({reason})") from error
    if found != run:
        raise UserError(f"{path} is a checkpoint of the run {found}, not of {run}: delete it to start that run again")
    return state


def save_tensors(path: Location, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write `tensors` to `path` as safetensors, atomically. A tensor with several names is written under each of them."""
    copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    write_atomic(path, save(copies, metadata=metadata))


@contextlib.contextmanager
def local(path: Location) -> Iterator[Path]:
    """Yield a local file with the content of `path`: `path` itself if it is local, else a temporary copy."""
    if isinstance(path, Path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        copy.write_bytes(path.read_bytes())
        yield copy


def _leaves(tree: Mapping[Any, Any], keys: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield each leaf with the keys that lead to it. An empty dictionary counts as a leaf."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, (*keys, key))
        else:
            yield (*keys, key), value


def _tree(leaves: Mapping[str, Any]) -> dict[Any, Any]:
    tree: dict[Any, Any] = {}
    for name, leaf in leaves.items():
        *keys, last = json.loads(name)
        branch = tree
        for key in keys:
            branch = branch.setdefault(key, {})
        branch[last] = leaf
    return tree


def _digest(run: str, values: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps([run, values]).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
