"""Padding: which vectors of a value are tokens according to its masks. All others are left out."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from sparseout.probe.values import UnreadableError, plain_values

Meaning = Literal["keep", "pad", "lengths", "unknown"]

# An additive mask holds 0 for a token, and at most this value for padding: a usual choice is -10000, which is -9984 in bfloat16.
_MASKED = -9000.0


class MaskError(Exception):
    """A mask does not tell which vectors of a value are padding. The message continues the name of the mask."""


@dataclasses.dataclass(frozen=True, eq=False)
class Mask:
    """An argument that tells which positions of a batch are tokens.

    Attributes:
        name: the name of the argument and of the module.
        value: the value of the argument.
        meaning: `"keep"` if nonzero means a token, `"pad"` if nonzero means padding, `"lengths"` if the values are numbers of
            tokens per sample, or `"unknown"`. In an additive attention mask, 0 always means a token, and a large negative value
            padding.
        batch_first: whether values are `(batch, tokens, units)` or `(tokens, batch, units)`; None if unknown.
        optional: whether the mask may belong to another value, such as the memory of a decoder. A value that it does not fit then
            counts as unmasked.
    """

    name: str
    value: Any
    meaning: Meaning
    batch_first: bool | None = None
    optional: bool = False

    def tokens(self) -> Tokens:
        """Return the tokens according to this mask.

        Raises:
            MaskError: the mask cannot be understood.
        """
        try:
            if self.meaning == "lengths":
                lengths = _lengths(self.value)
                return Tokens(_first(lengths, int(lengths.max())), self.batch_first, self.batch_first, lengths)
            if not isinstance(self.value, Tensor):
                raise MaskError(f"is a {type(self.value).__name__}")
            mask = plain_values(self.value).detach()
            kept = _tokens_of_attention(mask, self.meaning) if mask.dim() > 2 else _tokens_of_2d(mask, self.meaning)
        except UnreadableError as error:
            raise MaskError(f"cannot be read: {error}") from error
        flat = True if self.batch_first is None and self.meaning == "keep" else self.batch_first
        return Tokens(kept, self.batch_first, flat)


class Tokens:
    """The tokens of a batch.

    Args:
        kept: a boolean tensor of shape `(batch, tokens)`, true at a token.
        batch_first: whether values have the batch before the tokens; None if unknown.
        flat_batch_first: the same for values of shape `(batch * tokens, units)`.
        lengths: the number of tokens per sample, for values that may be longer than the longest sample.
    """

    def __init__(
        self, kept: Tensor, batch_first: bool | None, flat_batch_first: bool | None, lengths: Tensor | None = None
    ) -> None:
        self._kept, self._batch_first, self._flat_batch_first, self._lengths = kept, batch_first, flat_batch_first, lengths
        self.full = lengths is None and bool(kept.all())
        self._indices: dict[tuple[int, torch.device], Tensor] = {}

    def agrees_with(self, other: Tokens) -> bool:
        """Return whether both keep the same positions."""
        return torch.equal(self._kept, other._kept)

    def keep(self, vectors: Tensor) -> Tensor:
        """Return the vectors that are tokens.

        The shape of `vectors` may be `(batch, tokens, units)`, `(tokens, batch, units)`, `(batch, heads, tokens, units)`,
        `(batch, tokens, heads, units)` or `(batch * tokens, units)`. A value `(batch, units)` has no tokens and is returned
        whole.

        Raises:
            MaskError: the value has another shape, or its shape is ambiguous.
        """
        leading, (batch, tokens) = tuple(vectors.shape[:-1]), self._kept.shape
        if leading == (batch,) or (self._lengths is not None and leading == (int(self._lengths.sum()),)):
            return vectors
        if leading == (batch * tokens,):
            if batch > 1 and self._flat_batch_first is None:
                raise MaskError("does not tell whether its flattened value has the batch or the tokens first")
            layouts = [(1, 0) if self._flat_batch_first is False else (0, 1)]
            vectors = vectors.reshape(*((tokens, batch) if layouts[0][0] else (batch, tokens)), vectors.shape[-1])
        else:
            layouts = self._batch_and_token_dims(leading)
        if len(layouts) > 1:
            raise MaskError(f"does not tell which dimension of its value of shape {tuple(vectors.shape)} holds the tokens")
        if not layouts:
            raise MaskError(f"of shape {tuple(self._kept.shape)} does not fit its value of shape {tuple(vectors.shape)}")
        if layouts[0] != (0, 1):
            vectors = vectors.movedim(layouts[0], (0, 1))
        rows = vectors.reshape(batch * vectors.shape[1], -1, vectors.shape[-1])
        return rows[self._rows(vectors.shape[1], vectors.device)].flatten(0, 1)

    def _batch_and_token_dims(self, leading: tuple[int, ...]) -> list[tuple[int, int]]:
        """Return the possible pairs of the batch dimension and the token dimension."""
        batch, tokens = self._kept.shape
        layouts = {2: [(0, 1), (1, 0)], 3: [(0, 2), (0, 1), (1, 0)]}.get(len(leading), [])
        if self._batch_first is not None and len(leading) == 2:
            layouts = [(0, 1) if self._batch_first else (1, 0)]
        found = [(b, t) for b, t in layouts if leading[b] == batch and leading[t] == tokens]
        if not found and self._lengths is not None:
            found = [(b, t) for b, t in layouts if leading[b] == batch and leading[t] > tokens]
        return found

    def _rows(self, tokens: int, device: torch.device) -> Tensor:
        key = tokens, device
        if key not in self._indices:
            kept = self._kept if self._lengths is None else _first(self._lengths, tokens)
            self._indices[key] = kept.flatten().nonzero().flatten().to(device)
        return self._indices[key]


class MaskSet:
    """The masks of one call of a module."""

    def __init__(self, given: Sequence[Mask], two_sequences: bool = False) -> None:
        self.given, self.two_sequences = tuple(given), two_sequences
        self._read: list[tuple[Mask, Tokens | MaskError]] | None = None

    @property
    def understood(self) -> bool:
        """Whether the meaning of any mask is known."""
        return any(mask.meaning != "unknown" for mask in self.given)

    def keep(self, vectors: Tensor) -> Tensor:
        """Return the vectors that are tokens, out of `vectors` of shape `(..., units)`.

        Raises:
            MaskError: no mask fits, or several masks fit and differ.
        """
        if self._read is None:
            self._read = [(mask, _tokens_of(mask)) for mask in self.given]
        if self._read and all(isinstance(tokens, Tokens) and tokens.full for _, tokens in self._read):
            return vectors
        found: list[tuple[Mask, Tokens, Tensor]] = []
        failed: list[str] = []
        for mask, tokens in self._read:
            try:
                if isinstance(tokens, MaskError):
                    raise tokens
                found.append((mask, tokens, tokens.keep(vectors)))
            except MaskError as error:
                if not mask.optional or isinstance(tokens, MaskError):
                    failed.append(f"{mask.name} {error}")
        for (one, a, _), (other, b, _) in itertools.combinations(found, 2):
            if not a.agrees_with(b):
                raise MaskError(f"{one.name} and {other.name} both fit its value of shape {tuple(vectors.shape)}, and differ")
        if found:
            return found[0][2]
        if failed:
            raise MaskError("; ".join(failed))
        return vectors


def _tokens_of(mask: Mask) -> Tokens | MaskError:
    try:
        return mask.tokens()
    except MaskError as error:
        return error


def _tokens_of_2d(mask: Tensor, meaning: Meaning) -> Tensor:
    """Return the tokens of a mask of shape `(batch, tokens)` or, for a single sequence, `(tokens,)`."""
    if mask.dim() == 0 or meaning == "unknown":
        raise MaskError(f"of shape {tuple(mask.shape)} follows no known convention")
    mask = mask.reshape(-1, mask.shape[-1]).cpu()  # waits for the device, once per forward pass
    signed = mask.dtype != torch.bool and (mask.is_floating_point() or bool((mask < 0).any()))
    if not signed:
        return mask != 0 if meaning == "keep" else mask == 0
    if meaning == "keep" and bool((mask == 1).any()) and bool(((mask == 0) | (mask == 1)).all()):
        return mask == 1
    return _attended(mask)


def _attended(mask: Tensor) -> Tensor:
    """Return where an additive mask is 0; every other value must be large and negative."""
    attended, masked = mask == 0, mask <= _MASKED
    if not bool((attended | masked).all()):
        raise MaskError(f"of {mask.dtype} holds other values than 0 and 1, or 0 and large negative ones")
    return attended


def _tokens_of_attention(mask: Tensor, meaning: Meaning) -> Tensor:
    """Return the keys that any query attends to, of a mask `(batch, heads or 1, queries or 1, keys)` or without heads."""
    queries, keys = mask.shape[-2:]
    if mask.dim() == 3:
        mask = mask[:, None]
    if mask.dim() != 4 or queries not in (1, keys) or meaning == "pad":
        raise MaskError(f"of shape {tuple(mask.shape)} does not tell which positions are padding")
    if mask.is_floating_point():
        if not bool((mask <= 0).all()):
            raise MaskError(f"of {mask.dtype} holds NaN or positive values, so it is not additive")
        attended = mask > _MASKED
    else:
        attended = mask != 0
    attended = attended.any(1)  # by any head: (batch, queries, keys)
    reached = attended.any(1)
    if meaning == "unknown" and not mask.is_floating_point() and not bool((reached & (~attended).any(1)).all()):
        raise MaskError(f"of shape {tuple(mask.shape)} follows no known convention")
    everything = attended.all(-1)
    mixed = everything[:, :-1].any(1) & ~everything.all(1)
    if queries > 1 and bool(mixed.any()):
        raise MaskError("lets only some positions attend to all others, padding or not")
    return reached.cpu()


def _lengths(value: Any) -> Tensor:
    """Return the number of tokens per sample."""
    if isinstance(value, PackedSequence):
        sizes = value.batch_sizes
        lengths = (sizes[None] > torch.arange(int(sizes[0]))[:, None]).sum(1)
        return lengths if value.unsorted_indices is None else lengths[value.unsorted_indices.cpu()]
    if isinstance(value, Sequence) and value and all(isinstance(length, int) for length in value):
        return torch.tensor(value)
    if not isinstance(value, Tensor) or value.dim() != 1 or value.is_floating_point() or value.dtype == torch.bool:
        raise MaskError(f"must be a vector of integers, but is {_kind(value)}")
    return plain_values(value).detach().cpu().long()


def _kind(value: Any) -> str:
    return (
        f"a tensor of shape {tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
    )


def _first(lengths: Tensor, tokens: int) -> Tensor:
    """Return a mask `(batch, tokens)` that is true for the first `lengths` positions of each sample."""
    return torch.arange(tokens) < lengths[:, None]
