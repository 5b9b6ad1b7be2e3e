"""The samples that excite each unit of a layer most. The memory is bounded: a few numbers for each unit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, distributed

from sparseout.probe.sums import BLOCK
from sparseout.probe.values import first_tensor
from sparseout.records.unit_activity import Excitation

_NONE = -1.0  # the magnitude of no sample, below that of any sample


class Excitations:
    """The `k` samples with the largest magnitude of each unit, at most one position of each sample.

    Attributes:
        values: magnitudes, of shape `(k, units)`, in descending order along the first dimension; negative if there is no sample.
        places: for each of them the sample, the position, the number of positions and the rank, of shape `(4, k, units)`.
    """

    def __init__(self, values: Tensor | None = None, places: Tensor | None = None) -> None:
        self.values, self.places = values, places

    def add(self, other: Excitations) -> None:
        """Add the samples of other excitations. The earlier sample counts as the stronger one of two that are equal."""
        if other.values is None or other.places is None:
            return
        if self.values is None or self.places is None:
            self.values, self.places = other.values, other.places
            return
        if self.values.shape != other.values.shape:  # vectors differ in length, so units have no identity
            self.values, self.places = self.values[:, :0], self.places[:, :, :0]
            return
        device, k = self.values.device, len(self.values)
        values, order = torch.cat([self.values, other.values.to(device)]).sort(dim=0, descending=True, stable=True)
        places = torch.cat([self.places, other.places.to(device)], dim=1)
        self.values, self.places = values[:k], places.gather(1, order[:k].expand(4, -1, -1))

    def cpu(self) -> Excitations:
        """Return a copy on the CPU."""
        if self.values is None or self.places is None:
            return Excitations()
        return Excitations(self.values.cpu(), self.places.cpu())

    def of(self, unit: int) -> tuple[Excitation, ...]:
        """Return the samples that excite a unit, the strongest first, without those in which it is zero."""
        if self.values is None or self.places is None or unit >= self.values.shape[1]:
            return ()
        values, places = self.values[:, unit].tolist(), self.places[:, :, unit].T.tolist()
        return tuple(
            Excitation(sample, position, positions, value, rank)
            for value, (sample, position, positions, rank) in zip(values, places, strict=True)
            if value > 0
        )


class SampleCounter:
    """Counts the samples that a model is called on, and finds those that excite units in the running forward pass.

    Args:
        k: the number of samples for each unit; 0 for none.
    """

    def __init__(self, k: int) -> None:
        self._k = k
        self._first = self._seen = 0
        self._batch: int | None = None
        self._rows: int | None = None  # samples and positions together, as models that flatten them have
        self._rank = 0

    @property
    def active(self) -> bool:
        """Whether the running forward pass has samples, and excitations are wanted."""
        return self._batch is not None

    def reset(self) -> None:
        """Count samples from 0 again."""
        self._first = self._seen = 0

    def enter(self, args: Any, kwargs: Any) -> None:
        """Start a forward pass. Samples lie along the first dimension of the first tensor among the model's arguments."""
        if not self._k:
            return
        tensor, packed = first_tensor((args, kwargs))
        shape = tuple(tensor.shape) if tensor is not None and not packed and not tensor.is_nested else ()
        self._batch = shape[0] if shape else None
        self._rows = shape[0] * shape[1] if len(shape) > 1 else None
        self._rank = distributed.get_rank() if distributed.is_available() and distributed.is_initialized() else 0
        self._first = self._seen
        self._seen += self._batch or 0

    def leave(self) -> None:
        """End the forward pass."""
        self._batch = None

    @torch.no_grad()
    def excitations(self, vectors: Tensor, keep: Callable[[Tensor], Tensor] | None) -> Excitations:
        """Return the samples of this forward pass that excite the units of `vectors`, of shape `(..., units)`.

        `keep` returns the vectors that are no padding. The excitations are empty if the shape does not tell which sample a vector
        belongs to.
        """
        samples = self._samples_first(vectors)
        if samples is None:
            return Excitations()
        order = torch.arange(vectors[..., 0].numel(), device=vectors.device).view(vectors.shape[:-1])
        padding = None
        if keep is not None:
            padding = torch.ones_like(order, dtype=torch.bool)
            padding.view(-1)[keep(order[..., None]).flatten()] = False
            padding = self._samples_first(padding[..., None])
        best = [self._strongest(*block) for block in self._blocks(samples, padding)]
        total = Excitations()
        for each in best:
            total.add(each)
        return total

    def _samples_first(self, vectors: Tensor) -> Tensor | None:
        """Return `vectors` as `(samples, positions, units)`, or None if their shape does not fit the samples of the model."""
        batch, leading, units = self._batch, vectors.shape[:-1], vectors.shape[-1]
        if not batch or not units or not vectors.numel():
            return None
        if leading[0] == batch:
            return vectors.reshape(batch, -1, units)
        if len(leading) > 1 and leading[1] == batch:
            return vectors.movedim(1, 0).reshape(batch, -1, units)
        if leading == (self._rows,):
            return vectors.reshape(batch, -1, units)
        return None

    def _blocks(self, samples: Tensor, padding: Tensor | None) -> list[tuple[Tensor, Tensor | None, int]]:
        """Split `samples` into blocks of about `BLOCK` elements, each with its padding and the index of its first sample."""
        size = max(1, BLOCK // samples[0].numel())
        starts = range(0, len(samples), size)
        return [(samples[i : i + size], None if padding is None else padding[i : i + size], self._first + i) for i in starts]

    def _strongest(self, samples: Tensor, padding: Tensor | None, first: int) -> Excitations:
        """Return the excitations of one block `(samples, positions, units)`."""
        magnitudes = samples.detach().abs().float().nan_to_num_(_NONE, _NONE, _NONE)
        if padding is not None:
            magnitudes.masked_fill_(padding, _NONE)
        peaks, positions = magnitudes.max(dim=1)
        values, places = [], []
        for _ in range(self._k):
            value, index = peaks.max(dim=0)
            at = index[None]
            number, rank = (torch.full_like(index, each) for each in (samples.shape[1], self._rank))
            place = [index + first, positions.gather(0, at)[0], number, rank]
            values.append(value)
            places.append(torch.stack(place))
            peaks = peaks.scatter(0, at, _NONE)
        return Excitations(torch.stack(values), torch.stack(places, dim=1))
