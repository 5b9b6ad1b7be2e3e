"""Bridgeout: noise on weights that amounts to an L_q penalty on them."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparseout.checks import check_choice, check_p, check_q
from sparseout.dial import Dial
from sparseout.op.functional import sparseout

Draws = Literal["sample", "batch"]
ELEMENTS = 2**22  # noisy weights that are held at a time


def bridgeout(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    p: float = 0.5,
    q: float = 2.0,
    training: bool = True,
    *,
    draws: Draws = "sample",
    generator: torch.Generator | None = None,
) -> Tensor:
    """`u_b = (W + sign(W) |W|^(q/2) n_b) x_b + bias`, `n = m / (1 - p) - 1`, `m ~ Bernoulli(1 - p)` per weight and sample.

    `E[u] = W x + bias` and `Var[u_i] = p / (1 - p) sum_j x_j^2 |W_ij|^q`. `q = 2` is DropConnect. The gradient is that of `u`:
    `dL/dW_ij = sum_b dL/du_bi x_bj (1 + (q/2) |W_ij|^(q/2 - 1) n_bij)`. The noise sparsifies weights; activations follow only
    indirectly. The sign makes the law at `q = 2` that of DropConnect for every weight; the published code has none.

    A draw for each sample needs `batch x out x in` random numbers and a batched matrix product. A draw for each batch is much
    cheaper, and all samples share its noise.

    Args:
        input: `x`, of shape `(..., in)`.
        weight: `W`, of shape `(out, in)`.
        bias: of shape `(out,)`, without noise.
        p: drop probability in [0, 1).
        q: norm, at least 0.
        training: add noise; False is `F.linear`.
        draws: `"sample"`, as published, or `"batch"`.
        generator: source of the seed; None is the default generator of the device.

    Returns:
        `u`, of shape `(..., out)`.

    Raises:
        TypeError, ValueError: an argument is out of its range.

    Source: Khan, Shah and Stavness (2018), arXiv:1804.08042; a draw for each batch arXiv:2009.10893.

    >>> bridgeout(torch.ones(1, 2), torch.tensor([[1.0, -2.0]]), training=False)
    tensor([[-1.]])
    """
    p, q = check_p(p), check_q(q)
    check_choice("draws", draws, ("sample", "batch"))
    if not training or p == 0:
        return F.linear(input, weight, bias)
    if draws == "batch":
        return F.linear(input, sparseout(weight, p, q, gradient="exact", generator=generator), bias)
    x = input.reshape(-1, input.shape[-1])
    parts = []
    for part in x.split(max(1, ELEMENTS // max(weight.numel(), 1))):
        noisy = sparseout(weight.expand(len(part), *weight.shape), p, q, gradient="exact", generator=generator)
        parts.append(torch.bmm(noisy, part.unsqueeze(2)))
    output = torch.cat(parts).squeeze(2).reshape(*input.shape[:-1], weight.shape[0])
    return output if bias is None else output + bias


class Bridgeout(nn.Linear):
    """`u_b = (W + sign(W) |W|^(q/2) n_b) x_b + bias` in training, `u = W x + bias` in evaluation: `bridgeout` as a linear layer.

    Args:
        in_features, out_features, bias: as in `nn.Linear`.
        p: drop probability in [0, 1).
        q: norm, at least 0: 2 is DropConnect, a smaller `q` makes weights sparser.
        draws: `"sample"`, as published, or `"batch"`.

    Shape:
        Input `(..., in_features)`, output `(..., out_features)`.

    >>> Bridgeout(4, 2, p=0.3, q=1.5)
    Bridgeout(in_features=4, out_features=2, bias=True, p=0.3, q=1.5, draws='sample')
    """

    dial: ClassVar[Dial] = Dial("q", 0.3, 4.0, sparser="down")

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, *, p: float = 0.5, q: float = 2.0, draws: Draws = "sample"
    ) -> None:
        super().__init__(in_features, out_features, bias)
        self.p, self._q = check_p(p), check_q(q)
        self.draws: Draws = check_choice("draws", draws, ("sample", "batch"))

    @property
    def q(self) -> float:
        """Norm of the penalty on the weights."""
        return self._q

    @q.setter
    def q(self, q: float) -> None:
        self._q = check_q(q)

    def forward(self, input: Tensor) -> Tensor:
        return bridgeout(input, self.weight, self.bias, self.p, self.q, self.training, draws=self.draws)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, p={self.p:g}, q={self.q:g}, draws={self.draws!r}"
