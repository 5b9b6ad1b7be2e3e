"""The masks that modules are called with, and which of them apply to a value."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils.hooks import RemovableHandle

from sparseout.probe.hooks import Hook
from sparseout.probe.padding import Mask, MaskSet, Meaning
from sparseout.torch_internals import version_of

_MEANINGS: dict[str, Meaning] = {
    "attention_mask": "keep",
    "decoder_attention_mask": "keep",
    "padding_mask": "pad",
    "key_padding_mask": "pad",
    "src_key_padding_mask": "pad",
    "tgt_key_padding_mask": "pad",
    "memory_key_padding_mask": "pad",
    "lengths": "lengths",
    "input_lengths": "lengths",
    "seq_lengths": "lengths",
    "src_lengths": "lengths",
}
_LIKE_A_MASK = re.compile(r"mask|(^|_)(lengths|lens)$")
# Masks of attention heads, of a decoder's memory, and of the positions that enter a loss.
_OF_OTHER_VALUES = re.compile(
    r"head_mask|memory_mask|encoder_attention_mask|cross_attention_mask|global_attention_mask|masked_pos|mask_time|(label|target)_len"
)
_TORCH_TRANSFORMERS = (
    nn.MultiheadAttention,
    nn.Transformer,
    nn.TransformerEncoder,
    nn.TransformerDecoder,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer,
)
_ATTENTION_PATTERNS = ("mask", "src_mask", "tgt_mask", "attn_mask")  # in torch's transformers: keys per query, for all samples


class MaskStack:
    """The masks of the running modules, from the outermost to the innermost.

    A module's own masks apply to the values inside it. A module without masks inherits those of the enclosing module. In a
    model of two sequences (an encoder and a decoder), each part has its own masks, and a value outside these parts takes the
    mask that fits its shape.
    """

    def __init__(self) -> None:
        self._running: list[MaskSet | None] = []
        self._known: dict[tuple[Any, ...], MaskSet] = {}

    @property
    def current(self) -> MaskSet | None:
        """The masks that apply now; None if no running module accepts masks."""
        return self._running[-1] if self._running else None

    def clear(self) -> None:
        """Discard all state, before a forward pass."""
        self._running.clear()
        self._known.clear()

    def hook(self, name: str, module: nn.Module) -> list[RemovableHandle]:
        """Watch the calls of a module that may receive a mask, or a packed sequence (the model itself or a recurrent layer)."""
        forward = module.forward
        bound = getattr(forward, "__self__", None) is not None
        signature = _signature(getattr(forward, "__func__", forward), bound)
        if not signature.masks and not signature.open and name and not isinstance(module, nn.RNNBase):
            return []
        label = f"{name or 'the model'} ({type(module).__name__})"
        return [
            module.register_forward_pre_hook(Hook(self._enter, signature, label), with_kwargs=True),
            module.register_forward_hook(Hook(self._leave), always_call=True),
        ]

    def _enter(self, signature: _Signature, label: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        outer = self.current
        settled = outer is not None and outer.understood  # then only masks of the plainest form override it
        given = list(_given(signature, label, module, args, kwargs, settled))
        if isinstance(module, nn.RNNBase) and given and self._running and not settled:
            self._running[-1] = MaskSet([dataclasses.replace(mask, optional=True) for mask in given])
        self._running.append(self._choose(signature, given, outer, settled))

    def _choose(self, signature: _Signature, given: list[Mask], outer: MaskSet | None, settled: bool) -> MaskSet | None:
        """Return the masks that apply inside a module that received the masks `given` within `outer`."""
        understood = [mask for mask in given if mask.meaning != "unknown"]
        if understood or signature.two_sequences:
            return self._masks(understood, signature.two_sequences)
        if given and not settled:
            return self._masks(given, False)
        if signature.known and (outer is None or outer.two_sequences):
            return self._masks([], False)
        return outer

    def _masks(self, given: list[Mask], two_sequences: bool) -> MaskSet:
        """Return `MaskSet(given)`, the same object for equal arguments, so that each mask is read once per forward pass."""
        key = (
            two_sequences,
            *((m.meaning, m.batch_first, m.optional, id(m.value), _version(m.value)) for m in given),
        )
        if key not in self._known:
            self._known[key] = MaskSet(given, two_sequences)
        return self._known[key]

    def _leave(self, *_: Any) -> None:
        if self._running:
            self._running.pop()
        if not self._running:
            self._known.clear()


@dataclasses.dataclass(frozen=True)
class _Signature:
    """The mask arguments of a module's `forward`.

    Attributes:
        positions: the position of each argument, by name.
        masks: the names of the arguments that may be masks.
        open: whether `forward` accepts further keyword arguments.
    """

    positions: Mapping[str, int]
    masks: tuple[str, ...]
    open: bool

    @functools.cached_property
    def known(self) -> bool:
        """Whether `forward` accepts a mask of known meaning."""
        return not _MEANINGS.keys().isdisjoint(self.masks)

    @functools.cached_property
    def two_sequences(self) -> bool:
        """Whether `forward` accepts the sequences of an encoder and of a decoder."""
        names = self.positions.keys()
        return not names.isdisjoint(("decoder_attention_mask", "decoder_input_ids")) or (
            {"src_key_padding_mask", "tgt_key_padding_mask"} <= names
        )

    def value(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Return an argument of a call; None if it was not passed."""
        position = self.positions.get(name, len(args))
        return args[position] if position < len(args) else kwargs.get(name)


@functools.lru_cache(maxsize=1024)
def _signature(forward: Callable[..., Any], bound: bool) -> _Signature:
    try:
        parameters = list(inspect.signature(forward).parameters.values())[bound:]
    except (TypeError, ValueError):  # a scripted module
        return _Signature({}, (), False)
    named = [p.name if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) else "" for p in parameters]
    positions = {name: i for i, name in enumerate(named) if name and parameters[i].kind != inspect.Parameter.KEYWORD_ONLY}
    positions |= {p.name: len(parameters) + 2**16 for p in parameters if p.kind == p.KEYWORD_ONLY}
    masks = tuple(name for name in positions if _may_be_a_mask(name))
    return _Signature(positions, masks, any(p.kind == p.VAR_KEYWORD for p in parameters))


def _may_be_a_mask(name: str) -> bool:
    return name in _MEANINGS or (bool(_LIKE_A_MASK.search(name)) and not _OF_OTHER_VALUES.search(name))


def _given(
    signature: _Signature, label: str, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], settled: bool
) -> Iterator[Mask]:
    """Yield the masks of a call that describe the module's own values.

    If `settled`, yield only masks of known meaning with at most two dimensions.
    """
    for value in (*args, *kwargs.values()):
        if isinstance(value, PackedSequence):
            yield Mask(f"the packed sequence of {label}", value, "lengths")
    names = signature.masks
    if signature.open:
        names += tuple(name for name in kwargs if name not in signature.positions and _may_be_a_mask(name))
    for name in names:
        value, meaning = signature.value(name, args, kwargs), _MEANINGS.get(name, "unknown")
        if value is None or isinstance(value, (bool, int, float, str)):
            continue
        if settled and meaning != "lengths" and (meaning == "unknown" or not isinstance(value, Tensor) or value.dim() > 2):
            continue
        if _is_cross_attention(signature, args, kwargs) or _is_of_other_values(signature, module, name, value):
            continue
        yield Mask(f"{name} of {label}", value, meaning, _batch_first(module), name == "memory_key_padding_mask")


def _is_cross_attention(signature: _Signature, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Return whether the masks of a call describe keys from another sequence."""
    query, key, states, memory = (
        signature.value(name, args, kwargs) for name in ("query", "key", "key_value_states", "encoder_hidden_states")
    )
    if states is not None or (memory is not None and "encoder_attention_mask" not in signature.positions):
        return True
    return query is not None and key is not None and query is not key


def _is_of_other_values(signature: _Signature, module: nn.Module, name: str, value: Any) -> bool:
    """Return whether a mask of torch's own transformer modules describes other values than their own."""
    if not isinstance(module, _TORCH_TRANSFORMERS):
        return False
    if name == "memory_key_padding_mask" or (name == "src_key_padding_mask" and signature.two_sequences):
        return True
    return name in _ATTENTION_PATTERNS and isinstance(value, Tensor) and value.dim() == 2


def _batch_first(module: nn.Module) -> bool | None:
    """Return whether one of torch's own transformer modules has the batch first; None for other modules."""
    if not isinstance(module, _TORCH_TRANSFORMERS):
        return None
    return next((part.batch_first for part in module.modules() if isinstance(part, nn.MultiheadAttention)), None)


def _version(value: Any) -> int:
    return (version_of(value) or 0) if isinstance(value, Tensor) else 0
