"""The running root mean square of a layer's input, in which `scale="rms"` measures `|x|`."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import NamedTuple

import torch
from torch import Tensor

MOMENTUM = 0.1  # weight of a batch's mean square, as in BatchNorm: about ten batches count

_SAMPLE = 4096  # elements of a batch that are looked at, where the kernel does not sum them all anyway
_REMEMBERED = 2**15  # two a call

# The scale of recent calls, by layer and what they drew: a call that is computed again, in a backward pass, must have the same.
_recent: dict[Hashable, float | Tensor] = {}


class RunningRMS(NamedTuple):
    """`s_t^2 = (1 - 0.1) s_(t-1)^2 + 0.1 mean(x_(t-1)^2)`; the first batch's `s` is its own root mean square.

    Batches of zeros, and those with NaN or Inf, count for nothing. In the backward pass, where activation checkpointing computes
    a call again, the call has the scale that it had and does not count again.

    Attributes:
        value: a 0-d tensor, which this writes: the root mean square, 0 while there is none.
    """

    value: Tensor

    def number(self, input: Tensor, seed: int) -> tuple[float, bool]:
        """`s` for a call with `input` on the CPU, and whether the call is to be followed by `learn`."""
        if _is_recomputing():
            return float(_recall(self.value, seed) or self.value) or 1.0, False
        s = self.value.item()
        if s == 0:
            s = input.detach().to(torch.float64).square().mean().sqrt().item()
            s = s if 0 < s < math.inf else 1.0
        _remember(self.value, seed, s)
        return s, True

    def learn(self, mean_square: float) -> None:
        """Let a batch count, after its call."""
        if 0 < mean_square < math.inf:
            before = self.value.item()
            weight = MOMENTUM if before else 1.0
            self.value.fill_(math.sqrt((1 - weight) * before * before + weight * mean_square))

    def tensor(self, input: Tensor, seed: Tensor) -> Tensor:
        """`s` for a call with `input` on any device, and let a sample of the batch count. Nothing waits for the device."""
        scale: Tensor = torch.ops.sparseout.running_rms(input.detach(), self.value, seed)
        return scale

    def fixed(self) -> Tensor:
        """`s` as it is, where it cannot be changed: in the transforms of `torch.func`."""
        return _or_1(self.value.detach())


def _is_recomputing() -> bool:
    return torch._C._current_graph_task_id() != -1


def _remember(value: Tensor, drawn: Hashable, scale: float | Tensor) -> None:
    # Under both: networks seeded alike draw alike, and a compiler may have given a copy of the value, of another address.
    for key in ((value.data_ptr(), drawn), drawn):
        if len(_recent) >= _REMEMBERED:
            del _recent[next(iter(_recent))]
        _recent[key] = scale


def _recall(value: Tensor, drawn: Hashable) -> float | Tensor | None:
    return _recent.get((value.data_ptr(), drawn), _recent.get(drawn))


def _drawn(seed: Tensor) -> Hashable:
    """What a call drew; on a device that must not be waited for, the state of its generator, which is on the CPU."""
    if seed.is_cpu:
        return int(seed)
    state = torch.get_device_module(seed.device).get_rng_state(seed.device)
    return seed.device, state.numpy().tobytes()


def _or_1(scale: Tensor) -> Tensor:
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def sampled_rms(input: Tensor) -> Tensor:
    """The root mean square of all elements, from 8192 on of 2731 to 5461 of them, evenly spread; 0-d, float32 or float64.

    >>> sampled_rms(torch.full((3, 5000), -2.0))
    tensor(2.)
    """
    order = sorted(range(input.dim()), key=input.stride, reverse=True)
    # An odd step visits every unit of rows whose length is a power of two.
    step = input.numel() // _SAMPLE | 1
    sample = input.permute(order).reshape(-1)[::step]
    dtype = torch.promote_types(input.dtype, torch.float32)
    norm: Tensor = torch.linalg.vector_norm(sample, dtype=dtype)
    return norm.div(max(sample.numel(), 1) ** 0.5)


torch.library.define("sparseout::running_rms", "(Tensor input, Tensor(a!) value, Tensor seed) -> Tensor")


@torch.library.impl("sparseout::running_rms", "CompositeExplicitAutograd")
def _running_rms(input: Tensor, value: Tensor, seed: Tensor) -> Tensor:
    if _is_recomputing():
        found = _recall(value, _drawn(seed))
        return _or_1(value) if found is None else torch.as_tensor(found, dtype=value.dtype, device=value.device).clone()
    batch = sampled_rms(input)
    counts = batch.isfinite() & (batch > 0)
    before = value.to(batch.dtype)
    known = before > 0
    scale = torch.where(known, before, torch.where(counts, batch, 1.0)).to(value.dtype)
    after = torch.where(known, torch.hypot(before * (1 - MOMENTUM) ** 0.5, batch * MOMENTUM**0.5), batch)
    value.copy_(torch.where(counts, after, before))
    _remember(value, _drawn(seed), scale)
    return scale.clone()


def _fake_running_rms(input: Tensor, value: Tensor, seed: Tensor) -> Tensor:
    return torch.empty_like(value)


torch.library.register_fake("sparseout::running_rms", _fake_running_rms)
