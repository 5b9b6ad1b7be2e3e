"""The running root mean square of a layer's input, in which `scale="rms"` measures `|x|`."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable
from typing import NamedTuple

import torch
from torch import Tensor

from sparseout.checks import check_input, check_seed

MOMENTUM = 0.1  # weight of a batch's mean square, as in BatchNorm: about ten batches count

_OLD, _NEW = math.sqrt(1 - MOMENTUM), math.sqrt(MOMENTUM)
_SAMPLE = 4096  # elements of a batch that are looked at
_REMEMBERED = 2**15  # two a call

# The scale of recent calls, by layer and what they drew: a call that is computed again, in a backward pass, must have the same.
_recent: OrderedDict[Hashable, float | Tensor] = OrderedDict()


class RunningRMS(NamedTuple):
    """`s_t^2 = (1 - 0.1) s_(t-1)^2 + 0.1 rms(x_(t-1))^2`; the first batch's `s` is its own root mean square, over a `sample`.

    Batches of zeros, and those with NaN or Inf, count for nothing, and neither do those of calls under `no_grad`, such as Monte
    Carlo dropout at test time. In the backward pass, where activation checkpointing computes a call again, the call has the
    scale that it had and does not count again.

    Attributes:
        value: a 0-d tensor, which this writes: the root mean square. Zero, negative values, NaN and Inf mean that there is none.
    """

    value: Tensor

    def number(self, input: Tensor, seed: int) -> float:
        """`s` for a call with `input` on the CPU, which counts from then on."""
        largest = torch.finfo(self.value.dtype).max
        before = self.value.item()
        if not 0 < before <= largest:
            before = 0.0
        if _is_recomputing():
            return float(_recall(self.value, seed) or before or 1.0)
        some = sample(input.detach())
        batch = math.sqrt(some.dot(some).item() / max(len(some), 1))
        if not 0 < batch <= largest:
            batch = 0.0
        if batch and (torch.is_grad_enabled() or _is_in_checkpoint()):
            self.value.fill_(math.hypot(_OLD * before, _NEW * batch) if before else batch)
        scale = before or batch or 1.0
        _remember(self.value, seed, scale)
        return scale

    def tensor(self, input: Tensor, seed: Tensor) -> Tensor:
        """The same on any device and in compiled graphs. Nothing waits for the device."""
        scale: Tensor = torch.ops.sparseout.running_rms(input.detach(), self.value, seed, torch.is_grad_enabled())
        return scale

    def fixed(self) -> Tensor:
        """`s` as it is, where it cannot be changed: in the transforms of `torch.func`."""
        return _or_1(self.value.detach())


def sample(input: Tensor) -> Tensor:
    """All elements, from 8192 on 2731 to 5461 of them, evenly spread in memory; 1-d, float32 or float64.

    >>> sample(torch.ones(3, 5000)).shape
    torch.Size([5000])
    """
    if not input.is_contiguous():
        input = input.permute(sorted(range(input.dim()), key=input.stride, reverse=True)).contiguous()
    # An odd step visits every unit of rows whose length is a power of two.
    step = input.numel() // _SAMPLE | 1
    some = input.as_strided((-(-input.numel() // step),), (step,))
    return some.float() if some.dtype.itemsize == 2 else some


def _is_recomputing() -> bool:
    return torch._C._current_graph_task_id() != -1


def _is_in_checkpoint() -> bool:
    """Whether this runs in the forward pass of an autograd function, such as a reentrant checkpoint, which records no gradients.

    Unlike `no_grad`, that switches off forward mode too.
    """
    return not (torch.is_grad_enabled() or torch._C._is_fwd_grad_enabled() or torch.is_inference_mode_enabled())


def _remember(value: Tensor, drawn: Hashable, scale: float | Tensor) -> None:
    # Under both: networks seeded alike draw alike, and a compiler may have given a copy of the value, of another address.
    _recent[value.data_ptr(), drawn] = _recent[drawn] = scale
    while len(_recent) > _REMEMBERED:
        _recent.popitem(last=False)


def _recall(value: Tensor, drawn: Hashable) -> float | Tensor | None:
    return _recent.get((value.data_ptr(), drawn), _recent.get(drawn))


def _drawn(seed: Tensor) -> Hashable:
    """What a call drew; on a device that must not be waited for, the state of its generator, which is on the CPU."""
    if seed.is_cpu:
        return int(seed)
    if seed.is_cuda and torch.cuda.is_current_stream_capturing():
        return None  # a graph that is captured has no state of its own
    module = torch.get_device_module(seed.device)
    state = module.get_rng_state() if seed.device.type == "mps" else module.get_rng_state(seed.device)
    return seed.device, bytes(state.tolist())


def _or_1(scale: Tensor) -> Tensor:
    return torch.where(_is_scale(scale), scale, torch.ones_like(scale))


def _is_scale(value: Tensor) -> Tensor:
    return (value > 0) & (value <= torch.finfo(value.dtype).max)


def _check(input: Tensor, value: Tensor, seed: Tensor) -> None:
    """Raise unless the arguments of the operator are an input, a 0-d number to write and a seed, all on one device."""
    check_input(input)
    check_input(value, "value")
    if value.dim():
        raise ValueError(f"value must be a 0-d tensor, got one of shape {tuple(value.shape)}")
    if value.device != input.device:
        raise ValueError(f"value must be on the device of input, {input.device}, got one on {value.device}")
    check_seed(seed, input.device)


torch.library.define("sparseout::running_rms", "(Tensor input, Tensor(a!) value, Tensor seed, bool learns) -> Tensor")


@torch.library.impl("sparseout::running_rms", "CompositeExplicitAutograd")
def _running_rms(input: Tensor, value: Tensor, seed: Tensor, learns: bool) -> Tensor:
    _check(input, value, seed)
    drawn = _drawn(seed)
    if _is_recomputing():
        found = _recall(value, drawn)
        return _or_1(value) if found is None else torch.as_tensor(found, dtype=value.dtype, device=value.device).clone()
    some = sample(input)
    batch = some.dot(some).div(max(len(some), 1)).sqrt()
    counts = (batch > 0) & (batch <= torch.finfo(value.dtype).max)
    known, before = _is_scale(value), value.to(batch.dtype)
    scale = torch.where(known, before, torch.where(counts, batch, 1.0)).to(value.dtype)
    if learns or _is_in_checkpoint():
        after = torch.where(known, torch.hypot(before * _OLD, batch * _NEW), batch)
        value.copy_(torch.where(counts, after, before))
    _remember(value, drawn, scale)
    return scale.clone()


def _fake_running_rms(input: Tensor, value: Tensor, seed: Tensor, learns: bool) -> Tensor:
    _check(input, value, seed)
    return torch.empty_like(value)


torch.library.register_fake("sparseout::running_rms", _fake_running_rms)
