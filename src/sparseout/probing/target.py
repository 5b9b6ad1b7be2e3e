"""What `sparseout probe` looks at: a model and the batches to run it on."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from sparseout.batches import arguments
from sparseout.studies.config import UserError

KINDS = "hf:NAME_OR_FOLDER, package.module:factory or run:FOLDER"


@dataclasses.dataclass(frozen=True)
class Target:
    """A model that was asked for.

    Attributes:
        model: in evaluation mode.
        batches: inputs, in as many calls, each in a form that `sparseout.batches.arguments` reads.
        count: how many batches there are; None where that is not known.
        remarks: what to know about the model.
        history: its measures over training, an epoch a record, where they are known.
    """

    model: nn.Module
    batches: Iterable[Any]
    count: int | None
    remarks: Sequence[str] = ()
    history: Sequence[dict[str, Any]] = ()

    def run(self, batch: Any, device: torch.device) -> None:
        """Call the model on one batch.

        Raises:
            UserError: it cannot take it.
        """
        args, kwargs = arguments(self.model, batch)
        try:
            self.model(*_on(device, args), **_on(device, kwargs))
        except Exception as error:
            raise UserError(f"the model cannot run on this data: {type(error).__name__}: {first_line(error)}") from error


def find(name: str, data: Sequence[Path], batch_size: int) -> Target:
    """The target called `name`, with the files `data` as its input.

    Raises:
        UserError: there is none, or the data does not suit it.
    """
    kind, _, rest = name.partition(":")
    if not rest or not kind or kind.startswith("."):
        raise UserError(f"TARGET must be {KINDS}, got {name!r}")
    if kind == "hf":
        from sparseout.probing import hub

        return hub.load(rest, data, batch_size)
    if kind == "run":
        from sparseout.probing import run

        return run.load(Path(rest), data)
    from sparseout.probing import factory

    return factory.load(kind, rest, data, batch_size)


def first_line(error: BaseException) -> str:
    """The first line of what an exception says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _on(device: torch.device, batch: Any) -> Any:
    if isinstance(batch, Tensor | PackedSequence):
        return batch.to(device)  # type: ignore[arg-type]
    if isinstance(batch, list | tuple):
        return tuple(_on(device, item) for item in batch)
    if isinstance(batch, Mapping):
        return {name: _on(device, item) for name, item in batch.items()}
    return batch
