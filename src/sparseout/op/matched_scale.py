"""The scale `s_q` of `scale="matched"`, at which the noise over a layer has the variance of Dropout's: see `moments.py`."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from sparseout.native.library import LIBRARY
from sparseout.op import dtensor
from sparseout.op.custom_ops import as_tensor
from sparseout.op.moments import NORMS, TWO, compiled_weights, is_scale, moments_of, shape_factor, update, with_size
from sparseout.op.running_rms import MOMENTUM, check_state, is_readable, recalled, remember, sample, sample_in_memory
from sparseout.op.settings import Number
from sparseout.torch_internals import (
    is_fake,
    is_in_autograd_function,
    is_in_backward_pass,
    is_proxy_mode_active,
    is_transforming,
    may_be_recomputed,
)


class MatchedScale(NamedTuple):
    """`s_q = s R_q^(-1/(2-q))` with the running root mean square `s`, and `R_q` from running moments `R_k = E|x/s|^k`.

    `s^k R_k` is the running mean of `|x|^k` over the samples from which `RunningRMS` takes that of `x^2`, with the same momentum
    and the same rules for the first batch, for batches that count for nothing, and for calls that are computed again.

    Attributes:
        value: `s`, a 0-d tensor that `scale` writes.
        moments: `R_k` for each of `NORMS`, of shape `(12,)`, which `scale` writes. If one is not positive and finite, there are
            none, and the next batch sets them.
        seeds, scales: the seeds of recent calls that may be computed again, and their scales `s_q`.
    """

    value: Tensor
    moments: Tensor
    seeds: Tensor
    scales: Tensor

    def scale(self, input: Tensor, seed: Tensor | int, q: Number) -> float | Tensor:
        """Return the scale of a call and update the state; a 0-d tensor on a GPU and in compiled graphs, without waiting."""
        state = self
        if isinstance(seed, int):
            if not (is_in_backward_pass() or may_be_recomputed()) and is_readable(self.value) and is_readable(self.moments):
                return self._number(input, q)
            seed = torch.tensor([seed], device="cpu")
        elif dtensor.is_dtensor(input):
            return self._operator(_moments_of_shards(input), q, seed)
        elif is_transforming():
            complete = is_scale(self.value) & is_scale(self.moments).all()
            used = torch.where(complete, self.moments, 1.0)
            return (torch.where(is_scale(self.value), self.value, 1.0) * shape_factor(used, float(q))).detach()
        elif not torch.compiler.is_compiling() and is_fake(input) and not is_proxy_mode_active():
            # A recorded graph must hold the real tensors, and any other call must not change them.
            mode = input.fake_mode  # type: ignore[attr-defined]
            state = MatchedScale(*(mode.from_tensor(tensor) for tensor in self))
            with mode:
                return state._operator(torch.ops.sparseout.moments(input.detach()), q, seed)
        return state._operator(torch.ops.sparseout.moments(input.detach()), q, seed)

    def _operator(self, batch: Tensor, q: Number, seed: Tensor) -> Tensor:
        scale: Tensor = torch.ops.sparseout.matched_scale(batch, *self, as_tensor(q), seed, torch.is_grad_enabled())
        return scale

    def _number(self, input: Tensor, q: float) -> float:
        """Return the scale of a call on the CPU that is computed once, by compiled code."""
        assert LIBRARY is not None
        some, count, step = sample_in_memory(input)
        scale: float = LIBRARY.sparseout_matched_scale(
            some.dtype == torch.float64,
            some.data_ptr(),
            count,
            step,
            self.value.data_ptr(),
            self.moments.data_ptr(),
            compiled_weights(q),
            MOMENTUM,
            torch.is_grad_enabled(),
        )
        return scale


def _moments_of_shards(input: Tensor) -> Tensor:
    """Return the moments of a full `DTensor`, from a sample of each shard."""
    local, sums_of = dtensor.local_shard(input.detach())
    own = torch.ops.sparseout.moments(local)
    size, count = own[TWO], torch.full_like(own[TWO], local.numel())
    squares = sums_of(torch.stack([size.square() * count, count]))
    whole = (squares[0] / squares[1]).sqrt()
    ratio = torch.where(is_scale(whole) & is_scale(size), size / whole, 0.0)
    powers = torch.stack([own[index] * ratio**norm for index, norm in enumerate(NORMS)])
    return with_size(sums_of(powers * count) / squares[1], whole)


def _check(batch: Tensor, value: Tensor, moments: Tensor, seed: Tensor) -> None:
    check_state(batch, value, seed)
    for name, tensor in (("batch", batch), ("moments", moments)):
        if tensor.shape != (len(NORMS),):
            raise ValueError(f"{name} must be of shape ({len(NORMS)},), got {tuple(tensor.shape)}")


torch.library.define("sparseout::moments", "(Tensor input) -> Tensor")
torch.library.define(
    "sparseout::matched_scale",
    "(Tensor batch, Tensor(a!) value, Tensor(b!) moments, Tensor(c!) seeds, Tensor(d!) scales, Tensor q, Tensor seed, "
    "bool learns) -> Tensor",
)


@torch.library.impl("sparseout::moments", "CompositeExplicitAutograd")
def _moments(input: Tensor) -> Tensor:
    return moments_of(sample(input))


@torch.library.impl("sparseout::matched_scale", "CompositeExplicitAutograd")
def _matched_scale(
    batch: Tensor, value: Tensor, moments: Tensor, seeds: Tensor, scales: Tensor, q: Tensor, seed: Tensor, learns: bool
) -> Tensor:
    _check(batch, value, moments, seed)
    wide, after, moved = update(value, moments, batch, MOMENTUM, q.item())
    scale = wide.to(value.dtype)
    if is_in_backward_pass():
        return recalled(scale, seed, seeds, scales)
    if learns or is_in_autograd_function():
        value.copy_(after)
        moments.copy_(moved)
    remember(scale, seed, seeds, scales)
    return scale


def _fake_moments(input: Tensor) -> Tensor:
    dtype = torch.float32 if input.device.type == "mps" else torch.float64
    return torch.empty(len(NORMS), dtype=dtype, device=input.device)


def _fake_matched_scale(batch: Tensor, value: Tensor, moments: Tensor, seeds: Tensor, scales: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(value)


torch.library.register_fake("sparseout::moments", _fake_moments)
torch.library.register_fake("sparseout::matched_scale", _fake_matched_scale)
