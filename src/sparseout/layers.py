"""Sparseout as a module, in the place of `torch.nn.Dropout`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor, nn

from sparseout.checks import Gradient, check_choice, check_eps, check_p, check_q
from sparseout.functional import sparseout


class Sparseout(nn.Module):
    """`y = x + sign(x) |x|^(q/2) n` in training, `y = x` in evaluation: `sparseout.sparseout` as a layer.

    Args:
        p: drop probability in [0, 1].
        q: norm, at least 0: 2 is Dropout, less makes activations sparser, more makes them denser.
        inplace: write the result into the input.
        gradient: `"detached"` or `"exact"`.
        eps: positive bound of the backward factor for `q < 2`; None is 1e-6.
        shared_dims: dimensions along which one draw is shared.
        generator: source of the seeds; None is the default generator of the input's device.

    Shape:
        Input and output: any shape, the same.

    Raises:
        TypeError, ValueError: as `sparseout.sparseout` does, when the layer is built (the generator's device and the range of
        `shared_dims` when it is called).

    Source: Khan and Stavness (2019), arXiv:1904.08050.

    >>> layer = Sparseout(p=0.5, q=1.5)
    >>> layer
    Sparseout(p=0.5, q=1.5)
    >>> _ = torch.manual_seed(0)
    >>> layer(torch.full((6,), 0.0625))
    tensor([-0.0625,  0.1875, -0.0625, -0.0625, -0.0625,  0.1875])
    >>> layer.eval()(torch.ones(3))
    tensor([1., 1., 1.])
    """

    def __init__(
        self,
        p: float = 0.5,
        q: float = 2.0,
        inplace: bool = False,
        *,
        gradient: Gradient = "detached",
        eps: float | None = None,
        shared_dims: int | Sequence[int] = (),
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_choice("gradient", gradient, get_args(Gradient))
        if eps is not None:
            check_eps(eps)
        self.p, self.q, self.inplace = check_p(p), check_q(q), inplace
        self.gradient, self.eps = gradient, eps
        self.shared_dims, self.generator = shared_dims, generator

    def forward(self, input: Tensor) -> Tensor:
        return sparseout(
            input,
            self.p,
            self.q,
            self.training,
            self.inplace,
            gradient=self.gradient,
            eps=self.eps,
            shared_dims=self.shared_dims,
            generator=self.generator,
        )

    def extra_repr(self) -> str:
        shown = [f"p={self.p:g}", f"q={self.q:g}"]
        defaults = {"inplace": False, "gradient": "detached", "eps": None, "shared_dims": (), "generator": None}
        shown += [f"{name}={getattr(self, name)!r}" for name, default in defaults.items() if getattr(self, name) != default]
        return ", ".join(shown)
