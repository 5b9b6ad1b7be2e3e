"""The model that `sparseout probe` measures, with its batches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from sparseout.batches import arguments
from sparseout.errors import UserError
from sparseout.records.unit_activity import Excitation
from sparseout.user_code import first_line

TARGET_KINDS = "hf:NAME_OR_FOLDER, package.module:factory or run:FOLDER"


@dataclasses.dataclass(frozen=True)
class ProbedModel:
    """A model and the batches to run it on.

    Attributes:
        model: the model, in evaluation mode.
        batches: one input per call, in a form that `sparseout.batches.arguments` reads.
        count: the number of batches; None if unknown.
        remarks: remarks on the model to print.
        history: the measures over training, one record per epoch, if known.
        show: returns the sample behind an excitation, as text or as an image; None if samples are known by index alone.
        name: the name of the model; empty for that of its class.
    """

    model: nn.Module
    batches: Iterable[Any]
    count: int | None
    remarks: Sequence[str] = ()
    history: Sequence[dict[str, Any]] = ()
    show: Callable[[Excitation], Any] | None = None
    name: str = ""

    def run(self, batch: Any, device: torch.device) -> None:
        """Call the model on one batch.

        Raises:
            UserError: the model cannot run on the batch.
        """
        args, kwargs = arguments(self.model, batch)
        try:
            self.model(*_on(device, args), **_on(device, kwargs))
        except Exception as error:
            raise UserError(f"the model cannot run on this data: {type(error).__name__}: {first_line(error)}") from error


def _on(device: torch.device, batch: Any) -> Any:
    if isinstance(batch, Tensor | PackedSequence):
        return batch.to(device)  # type: ignore[arg-type]
    if isinstance(batch, list | tuple):
        return tuple(_on(device, item) for item in batch)
    if isinstance(batch, Mapping):
        return {name: _on(device, item) for name, item in batch.items()}
    return batch
