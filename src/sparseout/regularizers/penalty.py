"""Penalties on activations: the layer that records a term, and the sum of the terms that a training loop adds to its loss."""

from __future__ import annotations

import abc
import sys
import warnings
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sparseout.checks import check_number
from sparseout.dial import Dial
from sparseout.torch_internals import is_in_autograd_function, is_in_backward_pass

UNREAD = 100  # training calls after which a term that nobody reads is reported


class Penalty(nn.Module, abc.ABC):
    """`y = x`; records the term `strength * R(x)` of each training call, which `sparseout.penalty(model)` adds up.

    The term is a mean over the vectors of the batch, so it does not depend on the batch size. It is computed in float32 (float64
    for float64 input), under autocast too. Evaluation and calls under `no_grad` record nothing. A penalty has no noise.

    Args:
        strength: factor of the term, at least 0. It may change while a model trains.
        dim: the dimension that holds the units of a vector: -1 for linear, recurrent and transformer layers, 1 for the channels
            of a convolution.

    Shape:
        Input and output: any shape with at least one dimension, the same.

    Raises:
        TypeError, ValueError: an argument is of the wrong type or out of its range.
    """

    # In the MNIST autoencoder, 0.7 decades of L1 and of transformed L1 raise Hoyer sparseness by 0.15, and 0.5 of Hoyer-Square.
    dial: ClassVar[Dial] = Dial("strength", 1e-8, 1e4, sparser="up", scale="log", step=0.6)

    def __init__(self, strength: float, dim: int = -1) -> None:
        super().__init__()
        if isinstance(dim, bool) or not isinstance(dim, int):
            raise TypeError(f"dim must be an integer, got {dim!r}")
        self.dim = dim
        self._strength = _check_strength(strength)
        self._make_cell()
        self._forget()
        self._is_watched = False

    @abc.abstractmethod
    def value(self, input: Tensor) -> Tensor:
        """Return `R(x)`, a scalar, for `input` in float32 or float64."""

    @property
    def strength(self) -> float:
        """The factor of the term."""
        return self._strength

    @strength.setter
    def strength(self, strength: float) -> None:
        self._strength = _check_strength(strength)
        self._strength_cell.fill_(self._strength)

    @property
    def terms(self) -> tuple[Tensor, ...]:
        """The terms of the last forward pass, one for each call of this layer."""
        return tuple(self._terms)

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            self._end_call()
            return input
        if torch.compiler.is_compiling():
            if torch.is_grad_enabled():
                self._record(self._term(input))
            return input
        if is_recomputing():
            return self._recompute(input)
        if is_in_autograd_function():
            # The graph of this call is thrown away. The term is a leaf, whose gradient the recomputed call passes on.
            term = self._term(input).requires_grad_()
            self._record(term)
            self._pending.append(term)
        elif torch.is_grad_enabled():
            self._record(self._term(input))
        else:
            self._end_call()
        return input

    def extra_repr(self) -> str:
        return f"strength={self.strength:g}" + (f", dim={self.dim}" if self.dim != -1 else "")

    def _term(self, input: Tensor) -> Tensor:
        strength: Any = self._strength_cell if torch.compiler.is_compiling() else self._strength
        with torch.autocast(input.device.type, enabled=False):
            x = input if input.dtype == torch.float64 else input.float()
            term: Tensor = self.value(x) * strength
            return term

    def _record(self, term: Tensor) -> None:
        if self._is_read:
            self._forget()
        self._calls += 1
        if not self._is_watched:  # nothing tells one forward pass from the next, so only the last term is kept
            self._terms.clear()
            if self._calls == UNREAD and not torch.compiler.is_compiling():
                warnings.warn(
                    f"{type(self).__name__} ran {UNREAD} times in training and its term was never read: add "
                    "sparseout.penalty(model) to the loss",
                    stacklevel=4,
                )
        self._terms.append(term)

    def _end_call(self) -> None:
        """Forget the term of an earlier pass, after a call that has no term."""
        if self._terms and (self._is_read or not self._is_watched):
            self._forget()

    def _recompute(self, input: Tensor) -> Tensor:
        """Run the call again in a backward pass, as activation checkpointing does: its term counts already."""
        term = self._term(input)
        if not self._pending:
            return input
        if len(self._pending) > 1:
            raise RuntimeError(
                f"{type(self).__name__} was called several times in reentrant checkpoints, which cannot be told apart: "
                "use checkpoint(..., use_reentrant=False)"
            )
        factor = self._pending.pop().grad
        output: Tensor = input if factor is None else _Attach.apply(input, term, factor)
        return output

    def _forget(self) -> None:
        """Forget the terms: a new forward pass begins."""
        self._terms: list[Tensor] = []
        self._pending: list[Tensor] = []
        self._calls = 0
        self._is_read = False

    def _make_cell(self) -> None:
        # A compiled graph reads this tensor, so that it does not recompile when the strength changes.
        with torch.inference_mode(False):
            self._strength_cell = torch.tensor(self._strength, dtype=torch.float64, device="cpu")

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)  # a copy starts without terms, whose graph belongs to the original
        return state | {"_terms": [], "_pending": [], "_calls": 0, "_is_read": False, "_is_watched": False}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._make_cell()


def penalty(model: nn.Module) -> Tensor:
    """`sum_layers strength * R(x)` over the penalty layers in `model` and their calls in the last forward pass.

    Add it to the loss: `loss = criterion(model(inputs), labels) + sparseout.penalty(model)`. It may be read several times and
    counts each call once, with activation checkpointing too. Gradient accumulation adds the terms of each forward pass as it does
    the losses. `DistributedDataParallel` averages their gradients over the ranks.

    The first call registers a hook on `model`, which forgets the terms when the next forward pass begins. Pass the module that
    training calls. If training calls parts of it instead, a new pass begins with the first call after the terms were read.

    Args:
        model: holds layers such as `sparseout.regularizers.L1`.

    Returns:
        A scalar. It is 0 if no such layer ran in training mode since the last forward pass began.

    Raises:
        ValueError: `model` has no penalty layer.
        RuntimeError: this is the first call for `model`, and a layer ran several times before it: these calls may belong to
            several forward passes.

    >>> from sparseout.regularizers import L1
    >>> model = nn.Sequential(nn.ReLU(), L1(0.1))
    >>> _ = model(torch.tensor([[1.0, -2.0, 3.0], [0.0, 2.0, 0.0]]))
    >>> penalty(model)
    tensor(0.3000)
    """
    layers = [module for module in model.modules() if isinstance(module, Penalty)]
    if not layers:
        raise ValueError(f"model must have a layer with a penalty, got a {type(model).__name__} without one")
    for layer in layers:
        if layer._calls > 1 and not layer._is_watched:
            calls = layer._calls
            layer._forget()
            _watch(model, layers)
            raise RuntimeError(
                f"a {type(layer).__name__} ran {calls} times before the first penalty(model), in one forward pass or in several: "
                "call penalty(model) once before training"
            )
    _watch(model, layers)
    if not all(layer._is_read for layer in layers):  # a new pass has begun, in which these layers did not run
        for layer in layers:
            if layer._is_read:
                layer._forget()
    for layer in layers:
        layer._is_read = True
    terms = [term for layer in layers for term in layer.terms]
    if not terms:
        return torch.zeros((), device=next((each.device for each in model.parameters()), None))
    return torch.stack([term.to(terms[0].device) for term in terms]).sum() if len(terms) > 1 else terms[0]


def vectors(input: Tensor, dim: int) -> Tensor:
    """Return `input` as a matrix with a row for each vector, whose units lie along `dim`."""
    check_dim(input, dim)
    return input.movedim(dim, -1).flatten(0, -2) if input.dim() > 1 else input.unsqueeze(0)


def mean_over_vectors(per_vector: Tensor) -> Tensor:
    """Return the mean of a value of each vector; 0 for an empty batch."""
    return per_vector.sum() / max(per_vector.numel(), 1)


def check_dim(input: Tensor, dim: int) -> None:
    """Raise unless `input` has the dimension `dim`."""
    if not -input.dim() <= dim < input.dim():
        raise ValueError(f"input must have the dimension dim={dim}, got shape {tuple(input.shape)}")


class _Attach(torch.autograd.Function):
    """`y = x`, with the gradient `factor` for `term`."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, term: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        return input.view_as(input)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (factor,) = ctx.saved_tensors
        return grad, factor, None


def _watch(model: nn.Module, layers: list[Penalty]) -> None:
    """Forget the layers' terms whenever a forward pass of `model` begins."""
    if _start_pass not in model._forward_pre_hooks.values():
        model.register_forward_pre_hook(_start_pass)
    for layer in layers:
        layer._is_watched = True


def _start_pass(model: nn.Module, inputs: Any) -> None:
    if not is_recomputing():  # not in the backward pass of a checkpoint
        for module in model.modules():
            if isinstance(module, Penalty):
                module._forget()


def is_recomputing() -> bool:
    """Return whether a backward pass runs, in which activation checkpointing computes a call again."""
    return not torch.compiler.is_compiling() and is_in_backward_pass()


def _check_strength(strength: float) -> float:
    return check_number("strength", strength, 0.0, sys.float_info.max, "a finite number of at least 0")
