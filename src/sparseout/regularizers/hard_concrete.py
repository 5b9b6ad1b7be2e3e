"""Hard concrete gates: an L0 penalty on the units of a layer."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import Parameter

from sparseout.checks import check_integer, check_number
from sparseout.regularizers.draws import uniform
from sparseout.regularizers.penalty import Penalty, check_dim

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1  # temperature, and the interval that the gates are stretched to


def hard_concrete(
    log_alpha: Tensor, training: bool = True, *, samples: int | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """`z = clamp(s (zeta - gamma) + gamma, 0, 1)` with `s = sigmoid((log u - log(1 - u) + log_alpha) / beta)`, `u ~ U(0, 1)`.

    In evaluation `s = sigmoid(log_alpha)`, without noise. `beta = 2/3`, `gamma = -0.1` and `zeta = 1.1` as published, and
    `P(z != 0) = sigmoid(log_alpha - beta log(-gamma / zeta))`.

    Args:
        log_alpha: the location of each gate, of any shape.
        training: draw the gates; False returns those of evaluation.
        samples: draw each gate for so many samples; None draws it once.
        generator: source of the seed; None is the default generator of the device.

    Returns:
        `z` in [0, 1], of the shape of `log_alpha`, with a first dimension of `samples` if it is given.

    Source: Louizos, Welling and Kingma (2018), arXiv:1712.01312.

    >>> hard_concrete(torch.tensor([-10.0, 0.0, 10.0]), training=False)
    tensor([0.0000, 0.5000, 1.0000])
    """
    if training:
        shape = log_alpha.shape if samples is None else (samples, *log_alpha.shape)
        u = uniform(log_alpha, tuple(shape), generator)
        s = ((u.log() - torch.log1p(-u) + log_alpha) / BETA).sigmoid()
    else:
        s = log_alpha.sigmoid()
    return (s * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


class HardConcrete(Penalty):
    """`y_j = x_j z_j` with a gate `z_j` for each unit, and the term `strength * sum_j P(z_j != 0)`; see `Penalty`.

    The gates are the same for all inputs, so they remove units for good: they change lifetime sparsity, and the sparsity of a
    vector through the removed units. `log_alpha` is a parameter for the optimizer. A batch norm behind the gates undoes their
    scale.

    Args:
        strength: factor of the term, at least 0; about 0.1 divided by the number of training samples is usual.
        units: how many units a vector has.
        p: the probability that a gate is closed at the start, in (0, 1). 0.5 is usual for hidden units, 0.2 for inputs.
        dim: the dimension that holds the units: -1, or 1 for the channels of a convolution.
        per_sample: draw the gates for each index of the first dimension instead of once for the batch.

    Shape:
        Input and output: any shape with at least one dimension, the same.

    >>> HardConcrete(1e-4, units=256)
    HardConcrete(strength=0.0001, units=256)
    """

    log_alpha: Parameter

    def __init__(self, strength: float, units: int, p: float = 0.5, dim: int = -1, *, per_sample: bool = False) -> None:
        super().__init__(strength, dim)
        p = check_number("p", p, math.ulp(0.0), math.nextafter(1.0, 0.0), "a probability in (0, 1)")
        self.p, self.per_sample = p, per_sample
        self.units = check_integer("units", units, 1, 2**31 - 1)
        self.log_alpha = Parameter(torch.empty(self.units))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw `log_alpha` from a normal distribution around `log((1 - p) / p)`, with a standard deviation of 0.01."""
        with torch.no_grad():
            self.log_alpha.normal_(math.log((1 - self.p) / self.p), 0.01)

    def open_probability(self) -> Tensor:
        """`P(z_j != 0)` of each unit."""
        return (self.log_alpha - BETA * math.log(-GAMMA / ZETA)).sigmoid()

    def value(self, input: Tensor) -> Tensor:
        return self.open_probability().to(input.dtype).sum()

    def forward(self, input: Tensor) -> Tensor:
        check_dim(input, self.dim)
        samples = input.shape[0] if self.training and self.per_sample else None
        gates = hard_concrete(self.log_alpha, self.training, samples=samples).to(input.dtype)
        shape = [1] * input.dim()
        shape[self.dim] = -1
        if samples is not None:
            shape[0] = samples
        return super().forward(input) * gates.reshape(shape)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, units={len(self.log_alpha)}"
