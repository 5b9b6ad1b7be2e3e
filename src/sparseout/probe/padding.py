"""Padding: which vectors of a value a mask says are no tokens, and so are left out."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from sparseout.probe.readable import UnreadableError, whole

Meaning = Literal["keep", "pad", "lengths", "unknown"]

# An additive mask holds 0 for a token, and at most this for padding: -10000 was usual, and is -9984 in bfloat16.
_MASKED = -9000.0


class MaskError(Exception):
    """Why a mask does not say which vectors of a value are padding."""


@dataclasses.dataclass(frozen=True, eq=False)
class Mask:
    """An argument that says which positions of a batch are tokens.

    Attributes:
        name: of the argument, with the module's.
        value: what was given.
        meaning: `"keep"`: nonzero is a token; `"pad"`: nonzero is padding; `"lengths"`: tokens of each sample; or `"unknown"`. In
            a mask that is added to the scores of attention, 0 is a token and a large negative number padding, for all of these.
        batch_first: whether values are `(batch, tokens, units)` or `(tokens, batch, units)`; None where that is not known.
        optional: it may belong to another value (the memory of a decoder), so a value that it does not fit has none.
    """

    name: str
    value: Any
    meaning: Meaning
    batch_first: bool | None = None
    optional: bool = False

    def tokens(self) -> Tokens:
        """What it says.

        Raises:
            MaskError: it cannot be understood.
        """
        try:
            if self.meaning == "lengths":
                lengths = _lengths(self.value)
                return Tokens(_first(lengths, int(lengths.max())), self.batch_first, self.batch_first, lengths)
            if not isinstance(self.value, Tensor):
                raise MaskError(f"is a {type(self.value).__name__}")
            mask = whole(self.value).detach()
            kept = _of_attention(mask, self.meaning) if mask.dim() > 2 else _of_tokens(mask, self.meaning)
        except UnreadableError as error:
            raise MaskError(f"cannot be read: {error}") from error
        flat = True if self.batch_first is None and self.meaning == "keep" else self.batch_first
        return Tokens(kept, self.batch_first, flat)


class Tokens:
    """The tokens of a batch.

    Args:
        kept: of shape `(batch, tokens)`, true where there is one.
        batch_first: whether values have the batch before the tokens; None where that is not known.
        flat_batch_first: the same of values `(batch * tokens, units)`.
        lengths: how many tokens each sample has, where values may be longer than the longest.
    """

    def __init__(
        self, kept: Tensor, batch_first: bool | None, flat_batch_first: bool | None, lengths: Tensor | None = None
    ) -> None:
        self._kept, self._batch_first, self._flat_batch_first, self._lengths = kept, batch_first, flat_batch_first, lengths
        self.full = lengths is None and bool(kept.all())
        self._indices: dict[tuple[int, torch.device], Tensor] = {}

    def same(self, other: Tokens) -> bool:
        """Whether both say the same."""
        return torch.equal(self._kept, other._kept)

    def keep(self, vectors: Tensor) -> Tensor:
        """The vectors of tokens out of `(..., units)`.

        They are taken out of `(batch, tokens, units)`, `(tokens, batch, units)`, `(batch, heads, tokens, units)`,
        `(batch, tokens, heads, units)` and, flattened, `(batch * tokens, units)`. A value `(batch, units)` has no tokens.

        Raises:
            MaskError: the value has another shape, or its shape does not say which dimension is which.
        """
        leading, (batch, tokens) = tuple(vectors.shape[:-1]), self._kept.shape
        if leading == (batch,) or (self._lengths is not None and leading == (int(self._lengths.sum()),)):
            return vectors
        if leading == (batch * tokens,):
            if batch > 1 and self._flat_batch_first is None:
                raise MaskError("does not say whether its flattened value has the batch or the tokens first")
            places = [(1, 0) if self._flat_batch_first is False else (0, 1)]
            vectors = vectors.reshape(*((tokens, batch) if places[0][0] else (batch, tokens)), vectors.shape[-1])
        else:
            places = self._places(leading)
        if len(places) > 1:
            raise MaskError(f"does not say which dimension of its value of shape {tuple(vectors.shape)} holds the tokens")
        if not places:
            raise MaskError(f"of shape {tuple(self._kept.shape)} does not fit its value of shape {tuple(vectors.shape)}")
        if places[0] != (0, 1):
            vectors = vectors.movedim(places[0], (0, 1))
        rows = vectors.reshape(batch * vectors.shape[1], -1, vectors.shape[-1])
        return rows[self._rows(vectors.shape[1], vectors.device)].flatten(0, 1)

    def _places(self, leading: tuple[int, ...]) -> list[tuple[int, int]]:
        """Which dimensions may be those of the batch and of the tokens."""
        batch, tokens = self._kept.shape
        places = {2: [(0, 1), (1, 0)], 3: [(0, 2), (0, 1), (1, 0)]}.get(len(leading), [])
        if self._batch_first is not None and len(leading) == 2:
            places = [(0, 1) if self._batch_first else (1, 0)]
        found = [(b, t) for b, t in places if leading[b] == batch and leading[t] == tokens]
        if not found and self._lengths is not None:
            found = [(b, t) for b, t in places if leading[b] == batch and leading[t] > tokens]
        return found

    def _rows(self, tokens: int, device: torch.device) -> Tensor:
        key = tokens, device
        if key not in self._indices:
            kept = self._kept if self._lengths is None else _first(self._lengths, tokens)
            self._indices[key] = kept.flatten().nonzero().flatten().to(device)
        return self._indices[key]


class Masks:
    """The masks that a call of a module was given: what they say of a value."""

    def __init__(self, given: Sequence[Mask], two_sequences: bool = False) -> None:
        self.given, self.two_sequences = tuple(given), two_sequences
        self._said: list[tuple[Mask, Tokens | MaskError]] | None = None

    @property
    def understood(self) -> bool:
        """Whether any mask has a meaning that is known."""
        return any(mask.meaning != "unknown" for mask in self.given)

    def keep(self, vectors: Tensor) -> Tensor:
        """The vectors of tokens out of `(..., units)`.

        Raises:
            MaskError: no mask fits, or several do that differ.
        """
        if self._said is None:
            self._said = [(mask, _said(mask)) for mask in self.given]
        if self._said and all(isinstance(tokens, Tokens) and tokens.full for _, tokens in self._said):
            return vectors
        found: list[tuple[Mask, Tokens, Tensor]] = []
        failed: list[str] = []
        for mask, tokens in self._said:
            try:
                if isinstance(tokens, MaskError):
                    raise tokens
                found.append((mask, tokens, tokens.keep(vectors)))
            except MaskError as error:
                if not mask.optional or isinstance(tokens, MaskError):
                    failed.append(f"{mask.name} {error}")
        for (one, a, _), (other, b, _) in itertools.combinations(found, 2):
            if not a.same(b):
                raise MaskError(f"{one.name} and {other.name} both fit its value of shape {tuple(vectors.shape)}, and differ")
        if found:
            return found[0][2]
        if failed:
            raise MaskError("; ".join(failed))
        return vectors


def _said(mask: Mask) -> Tokens | MaskError:
    try:
        return mask.tokens()
    except MaskError as error:
        return error


def _of_tokens(mask: Tensor, meaning: Meaning) -> Tensor:
    """Which positions are tokens, of a mask `(batch, tokens)` or, for one sequence, `(tokens,)`."""
    if mask.dim() == 0 or meaning == "unknown":
        raise MaskError(f"of shape {tuple(mask.shape)} is of no known convention")
    mask = mask.reshape(-1, mask.shape[-1]).cpu()  # the one wait for the device
    signed = mask.dtype != torch.bool and (mask.is_floating_point() or bool((mask < 0).any()))
    if not signed:
        return mask != 0 if meaning == "keep" else mask == 0
    if meaning == "keep" and bool((mask == 1).any()) and bool(((mask == 0) | (mask == 1)).all()):
        return mask == 1
    return _attended(mask)


def _attended(mask: Tensor) -> Tensor:
    """Where an additive mask is 0, and nowhere else than where it is large and negative."""
    attended, masked = mask == 0, mask <= _MASKED
    if not bool((attended | masked).all()):
        raise MaskError(f"of {mask.dtype} holds other values than 0 and 1, or 0 and large negative ones")
    return attended


def _of_attention(mask: Tensor, meaning: Meaning) -> Tensor:
    """Which keys are tokens, of a mask `(batch, heads or 1, queries or 1, keys)` or without heads: those attended to at all."""
    queries, keys = mask.shape[-2:]
    if mask.dim() == 3:
        mask = mask[:, None]
    if mask.dim() != 4 or queries not in (1, keys) or meaning == "pad":
        raise MaskError(f"of shape {tuple(mask.shape)} does not say which positions are padding")
    if mask.is_floating_point():
        if not bool((mask <= 0).all()):
            raise MaskError(f"of {mask.dtype} holds NaN or positive values, so it is not one that is added")
        attended = mask > _MASKED
    else:
        attended = mask != 0
    attended = attended.any(1)  # of any head: (batch, queries, keys)
    reached = attended.any(1)
    if meaning == "unknown" and not mask.is_floating_point() and not bool((reached & (~attended).any(1)).all()):
        raise MaskError(f"of shape {tuple(mask.shape)} is of no known convention")
    everything = attended.all(-1)
    mixed = everything[:, :-1].any(1) & ~everything.all(1)
    if queries > 1 and bool(mixed.any()):
        raise MaskError("lets some positions attend to all, padding or not, and others not")
    return reached.cpu()


def _lengths(value: Any) -> Tensor:
    """The number of tokens of each sample."""
    if isinstance(value, PackedSequence):
        sizes = value.batch_sizes
        lengths = (sizes[None] > torch.arange(int(sizes[0]))[:, None]).sum(1)
        return lengths if value.unsorted_indices is None else lengths[value.unsorted_indices.cpu()]
    if isinstance(value, Sequence) and value and all(isinstance(length, int) for length in value):
        return torch.tensor(value)
    if not isinstance(value, Tensor) or value.dim() != 1 or value.is_floating_point() or value.dtype == torch.bool:
        raise MaskError(f"is no vector of integers but {_kind(value)}")
    return whole(value).detach().cpu().long()


def _kind(value: Any) -> str:
    return (
        f"a tensor of shape {tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
    )


def _first(lengths: Tensor, tokens: int) -> Tensor:
    """`(batch, tokens)`: true for the first of each sample."""
    return torch.arange(tokens) < lengths[:, None]
