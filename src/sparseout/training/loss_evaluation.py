"""The evaluation of a study that is made from a loss: means over items, scores of the user, and the sparsity of the layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.utils.data import TensorDataset, default_collate

from sparseout.errors import UserError
from sparseout.records.schema import Record
from sparseout.training.evaluation import measuring
from sparseout.training.supervised import Scores

LossFunction = Callable[[Any, Any], Tensor | Mapping[str, Tensor]]
ScoreFunction = Callable[[Any, Any], Mapping[str, float | Tensor]]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How a network is scored.

    Attributes:
        loss: the loss of a batch, as in `supervised_study`.
        score: the user's function of the network and all batches; None without one.
        own: names of the user's scores, which come from `loss` or from `score`.
        batch_size: number of items per forward pass.
    """

    loss: LossFunction
    score: ScoreFunction | None
    own: tuple[str, ...]
    batch_size: int

    @torch.no_grad()
    def scores(self, network: nn.Module, part: Any, profile: bool) -> tuple[Scores, Record]:
        """Return the scores of a network on all items of `part`, and the sparsity of its layers.

        Raises:
            UserError: a function of the user returns something else than its scores.
        """
        network.eval()
        totals: Scores = {}
        with measuring(network, regularised_layers(network), profile) as measures:
            for batch, count in self._batches(network, part):
                for name, mean in self.means(network, batch).items():
                    totals[name] = totals.get(name, 0.0) + mean.item() * count
        found = {name: total / len(part) for name, total in totals.items()}
        if self.score is not None:
            found |= self._scored(self.score(network, (batch for batch, _ in self._batches(network, part))))
        for name in self.own:
            if name not in found:
                raise UserError(f"the loss function or the function `scores` must return the score {name!r}")
        return found, measures.results()

    def means(self, network: Any, batch: Any) -> Mapping[str, Tensor]:
        """Return the loss of a batch and the other scores that the loss function returns, after checking names and shapes."""
        found = self.loss(network, batch)
        named = {"loss": found} if isinstance(found, Tensor) else found
        allowed = ("accuracy", *self.own)
        if not isinstance(named, Mapping) or "loss" not in named or not set(named) <= {"loss", *allowed}:
            got = list(named) if isinstance(named, Mapping) else type(named).__name__
            others = " or ".join(map(repr, allowed))
            raise UserError(f"the loss function must return a tensor, or a mapping with 'loss' and perhaps {others}, got {got}")
        for name, value in named.items():
            if not isinstance(value, Tensor) or value.dim():
                raise UserError(
                    f"the loss function must return a mean, a tensor without dimensions, as {name!r}, got {_shape(value)}"
                )
        return named

    def _batches(self, network: nn.Module, part: Any) -> Iterator[tuple[Any, int]]:
        """Yield the batches of a part of the data, on the network's device, and their numbers of items."""
        device = next(network.parameters()).device
        for rows in torch.arange(len(part)).split(self.batch_size):
            yield send_to_device(collated(part, rows), device), len(rows)

    def _scored(self, found: Any) -> Scores:
        """Return what the user's function returned as numbers, after checking names and shapes."""
        if not isinstance(found, Mapping) or not set(found) <= {*self.own}:
            got = list(found) if isinstance(found, Mapping) else type(found).__name__
            raise UserError(f"the function `scores` must return a mapping of scores that `better` names, got {got}")
        try:
            return {name: float(value) for name, value in found.items()}
        except (TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"the function `scores` must return numbers, got {found}") from error


def collated(part: Any, rows: Tensor) -> Any:
    """Return the items `rows` of a data set as one batch."""
    if type(part) is TensorDataset:
        return tuple(tensor[rows] for tensor in part.tensors)
    return default_collate([part[row] for row in rows.tolist()])


def regularised_layers(network: nn.Module) -> Sequence[str]:
    """Return the names of a network's regularised layers.

    Raises:
        UserError: the network does not name them, or has no such layers.
    """
    names = getattr(network, "regularised_layers", ())
    kind = type(network).__name__
    if not names or isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{kind}.regularised_layers must be a tuple of the names of its layers with a regularizer, got {names!r}")
    known = dict(network.named_modules())
    for name in names:
        if name not in known:
            raise UserError(f"{kind}.regularised_layers must name layers of the network, got {name!r}")
    return tuple(names)


def _shape(value: Any) -> str:
    return f"the shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
