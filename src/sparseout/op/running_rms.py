"""The running root mean square of a layer's input: the scale `s` of `scale="rms"`.

`matched_scale.py` has the scale of `scale="matched"`, with the same sample and the same memory of recent calls.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sparseout.checks import check_input, check_seed
from sparseout.native.library import LIBRARY
from sparseout.op import backends, dtensor
from sparseout.op.moments import is_scale
from sparseout.torch_internals import (
    is_fake,
    is_in_autograd_function,
    is_in_backward_pass,
    is_proxy_mode_active,
    is_transforming,
    may_be_recomputed,
)

MOMENTUM = 0.1  # weight of a batch's mean square, as in BatchNorm
REMEMBERED = 1024  # calls of a layer whose scale a checkpoint can find again

_SAMPLE = 4096  # approximate number of elements in a sample


class RunningRMS(NamedTuple):
    """`s_t^2 = (1 - 0.1) s_(t-1)^2 + 0.1 rms(x_(t-1))^2`; the first batch uses its own root mean square, over a `sample`.

    A batch whose root mean square is 0, NaN or Inf leaves the value unchanged, and so does a call under `no_grad`, such as Monte
    Carlo dropout. When activation checkpointing computes a call again in the backward pass, the call finds its scale by its
    seed, and leaves the value unchanged.

    Attributes:
        value: the root mean square, a 0-d tensor that `scale` writes. Zero, negative values, NaN and Inf mean that there is none.
        seeds: the seeds of recent calls that may be computed again, the most recent first; int64.
        scales: their scales; float32.
    """

    value: Tensor
    seeds: Tensor
    scales: Tensor

    def scale(self, input: Tensor, seed: Tensor | int) -> float | Tensor:
        """Return the scale of a call and update the value; a 0-d tensor on a GPU and in compiled graphs, without waiting."""
        state = self
        if isinstance(seed, int):
            if not (is_in_backward_pass() or may_be_recomputed()) and is_readable(self.value):
                return self._number(input, torch.is_grad_enabled())
            seed = torch.tensor([seed], device="cpu")
        elif dtensor.is_dtensor(input):
            input = _rms_of_shards(input)
        elif is_transforming():
            return torch.where(is_scale(self.value), self.value, 1.0).detach()
        elif not torch.compiler.is_compiling() and is_fake(input) and not is_proxy_mode_active():
            # A recorded graph must hold the real tensors, and any other call must not change them.
            state = RunningRMS(*(input.fake_mode.from_tensor(tensor) for tensor in self))  # type: ignore[attr-defined]
        scale: Tensor = torch.ops.sparseout.running_rms(input.detach(), *state, seed, torch.is_grad_enabled())
        return scale

    def _number(self, input: Tensor, learns: bool) -> float:
        """Return the scale of a call on the CPU and update the value, by compiled code."""
        assert LIBRARY is not None
        some, count, step = sample_in_memory(input)
        scale: float = LIBRARY.sparseout_running_rms(
            some.dtype == torch.float64, some.data_ptr(), count, step, self.value.data_ptr(), MOMENTUM, learns
        )
        return scale

    def _operations(self, input: Tensor, learns: bool) -> Tensor:
        """Compute `_number` in operations of torch, without waiting for a GPU."""
        some = sample(input)
        squares = some.dot(some)
        batch = (squares if squares.device.type == "mps" else squares.double()).div(max(len(some), 1)).sqrt()
        counts = (batch > 0) & (batch <= torch.finfo(self.value.dtype).max)
        known, before = is_scale(self.value), self.value.to(batch.dtype)
        scale = torch.where(known, before, torch.where(counts, batch, 1.0)).to(self.value.dtype)
        if learns:
            after = torch.where(known, torch.hypot(before * (1 - MOMENTUM) ** 0.5, batch * MOMENTUM**0.5), batch)
            self.value.copy_(torch.where(counts, after, before))
        return scale


def is_readable(state: Tensor) -> bool:
    """Return whether compiled code can update a tensor of the running scale."""
    return state.dtype == torch.float32 and state.is_contiguous()


def no_recent_calls(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return `seeds` and `scales` that hold no call."""
    seeds = torch.full((REMEMBERED,), -1, dtype=torch.int64, device=device)
    return seeds, torch.zeros((REMEMBERED,), dtype=torch.float32, device=device)


def sample(input: Tensor) -> Tensor:
    """Return all elements, or from 8192 elements on 2731 to 5461 of them, evenly spread in memory; 1-d, float32 or float64.

    >>> sample(torch.ones(3, 5000)).shape
    torch.Size([5000])
    """
    if not input.is_contiguous():
        input = input.permute(sorted(range(input.dim()), key=input.stride, reverse=True)).contiguous()
    step = _step(input.numel())
    some = input.as_strided((-(-input.numel() // step),), (step,))
    return some.float() if some.dtype.itemsize == 2 else some


def sample_in_memory(input: Tensor) -> tuple[Tensor, int, int]:
    """Return a tensor, a count and a step: `sample(input)` is that many elements of the tensor's memory, from its first one."""
    if input.is_contiguous() and input.dtype.itemsize > 2:
        count = input.numel()
        step = _step(count)
        return input, -(-count // step), step
    some = sample(input.detach())
    return some, len(some), some.stride(0)


def _step(count: int) -> int:
    """Return the distance between the elements of a sample; an odd one visits every unit of rows of a power of two."""
    return count // _SAMPLE | 1


def _rms_of_shards(input: Tensor) -> Tensor:
    """Return the root mean square of a full `DTensor`, of shape `(1,)`, from a sample of each shard."""
    local, sums_of = dtensor.local_shard(input.detach())
    some = sample(local)
    squares = some.dot(some) / max(len(some), 1) * local.numel()
    sums = sums_of(torch.stack([squares, torch.full_like(squares, local.numel())]))
    return (sums[:1] / sums[1:]).sqrt()


def recalled(scale: Tensor, seed: Tensor, seeds: Tensor, scales: Tensor) -> Tensor:
    """Return the scale of the recent call with this seed, or `scale` if there is none."""
    found = seeds == seed
    latest = scales.index_select(0, found.int().argmax(0, keepdim=True)).reshape(())
    return torch.where(found.any(), latest.to(scale.dtype), scale)


def remember(scale: Tensor, seed: Tensor, seeds: Tensor, scales: Tensor) -> None:
    """Write the seed and the scale of a call that may be computed again."""
    if may_be_recomputed():
        seeds.copy_(torch.cat([seed, seeds[:-1]]))
        scales.copy_(torch.cat([scale.reshape(1).to(scales.dtype), scales[:-1]]))


def check_state(input: Tensor, value: Tensor, seed: Tensor) -> None:
    """Raise unless the arguments of the operator are an input, a 0-d number to write and a seed, all on one device."""
    check_input(input)
    check_input(value, "value")
    if value.dim():
        raise ValueError(f"value must be a 0-d tensor, got one of shape {tuple(value.shape)}")
    if value.device != input.device:
        raise ValueError(f"value must be on the device of input, {input.device}, got one on {value.device}")
    check_seed(seed, input.device)


torch.library.define(
    "sparseout::running_rms",
    "(Tensor input, Tensor(a!) value, Tensor(b!) seeds, Tensor(c!) scales, Tensor seed, bool learns) -> Tensor",
)


@torch.library.impl("sparseout::running_rms", "CompositeExplicitAutograd")
def _running_rms(input: Tensor, value: Tensor, seeds: Tensor, scales: Tensor, seed: Tensor, learns: bool) -> Tensor:
    check_state(input, value, seed)
    state, learns = RunningRMS(value, seeds, scales), learns or is_in_autograd_function()
    if input.is_cpu and backends.choose(input) == "cpu" and is_readable(value):
        scale = torch.full_like(value, state._number(input, learns and not is_in_backward_pass()))
    else:
        scale = state._operations(input, learns and not is_in_backward_pass())
    if is_in_backward_pass():
        return recalled(scale, seed, seeds, scales)
    remember(scale, seed, seeds, scales)
    return scale


def _fake_running_rms(input: Tensor, value: Tensor, seeds: Tensor, scales: Tensor, seed: Tensor, learns: bool) -> Tensor:
    check_state(input, value, seed)
    return torch.empty_like(value)


torch.library.register_fake("sparseout::running_rms", _fake_running_rms)
