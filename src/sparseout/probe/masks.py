"""Padding: which vectors a model's `attention_mask` says are no tokens, and so are left out."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Padding:
    """The tokens of a batch: `mask` of shape `(batch, tokens)` is nonzero where there is one."""

    def __init__(self, mask: Tensor) -> None:
        self._shape = mask.shape
        self._kept = (mask != 0).flatten().nonzero().flatten()  # the one wait for the device in a forward pass
        self._full = len(self._kept) == mask.numel()

    def keep(self, vectors: Tensor) -> Tensor | None:
        """The vectors of tokens out of `(..., units)`; None where the mask does not fit.

        It fits `(batch, tokens, units)`, `(batch, heads, tokens, units)`, and, flattened, `(batch * tokens, units)`. A value
        `(batch, units)` has no tokens.
        """
        (batch, tokens), leading = self._shape, vectors.shape[:-1]
        if self._full or leading == (batch,):
            return vectors
        heads = leading[1] if len(leading) == 3 else 1
        if tuple(leading) not in ((batch, tokens), (batch, heads, tokens), (batch * tokens,)):
            return None
        if len(leading) == 3:
            vectors = vectors.transpose(1, 2)
        rows = vectors.reshape(batch * tokens, heads, vectors.shape[-1])[self._kept.to(vectors.device)]
        return rows.flatten(0, 1)


class MaskStack:
    """The padding of the innermost running module that was called with an `attention_mask` of two dimensions.

    A module that also takes a `decoder_attention_mask` or `decoder_input_ids` hands its masks to its parts, and sets none itself.
    """

    def __init__(self) -> None:
        self._running: list[Padding | None] = []

    @property
    def current(self) -> Padding | None:
        """The padding, if any."""
        return self._running[-1] if self._running else None

    def clear(self) -> None:
        """Forget all."""
        self._running.clear()

    def hook(self, module: nn.Module) -> list[torch.utils.hooks.RemovableHandle]:
        """Watch a module's calls, if it takes an `attention_mask`."""
        forward = module.forward
        bound = getattr(forward, "__self__", None) is not None
        position = _mask_position(getattr(forward, "__func__", forward), bound)
        if position is None:
            return []

        def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            mask = args[position] if position < len(args) else kwargs.get("attention_mask")
            self._running.append(Padding(mask) if isinstance(mask, Tensor) and mask.dim() == 2 else self.current)

        def leave(*_: Any) -> None:
            self._running.pop()

        return [
            module.register_forward_pre_hook(enter, with_kwargs=True),
            module.register_forward_hook(leave, always_call=True),
        ]


@functools.lru_cache(maxsize=1024)
def _mask_position(forward: Callable[..., Any], bound: bool) -> int | None:
    """Which argument the `attention_mask` is, after the module itself; None where there is none to watch."""
    try:
        names = list(inspect.signature(forward).parameters)
    except (TypeError, ValueError):  # a scripted module
        return None
    if "attention_mask" not in names or not {"decoder_attention_mask", "decoder_input_ids"}.isdisjoint(names):
        return None
    return names.index("attention_mask") - bound
