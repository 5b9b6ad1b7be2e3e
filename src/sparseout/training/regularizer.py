"""The layer of a run's regularizer, for one place in its network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from sparseout.layers import Sparseout
from sparseout.regularizers import (
    L1,
    BatchKWinners,
    DeCov,
    HardConcrete,
    HoyerSquare,
    KWinners,
    LifetimeWinners,
    Standout,
    TransformedL1,
)
from sparseout.training.config import Config


def regularizer_layer(
    config: Config,
    units: int,
    dim: int = -1,
    *,
    p: float | None = None,
    sparseout: Callable[..., nn.Module] = Sparseout,
    dropout: Callable[[float], nn.Module] = nn.Dropout,
) -> nn.Module:
    """Return a new layer with the regularizer of `config`. In a run with a target, it starts where it acts least.

    Layers with noise draw it from their device's default generator. Selections compare magnitudes, so that signed activations
    compete fairly; for the outputs of a ReLU nothing changes.

    Args:
        config: the settings of the run.
        units: how many units a vector has.
        dim: the dimension that holds the units: -1, or 1 for the channels of a convolution.
        p: drop probability in this place. Default: that of `config`.
        sparseout, dropout: the classes of these layers, such as those with locked draws.
    """
    p = config.p if p is None else p
    build: dict[str, Callable[[], Any]] = {
        "sparseout": lambda: sparseout(p, config.q, gradient=config.gradient, scale=config.layer_scale),
        "dropout": lambda: dropout(p),
        "none": nn.Identity,
        "l1": lambda: L1(config.strength, dim),
        "transformed_l1": lambda: TransformedL1(config.strength, config.transformed_l1_a, dim),
        "hoyer_square": lambda: HoyerSquare(config.strength, dim),
        "decov": lambda: DeCov(config.strength, dim),
        "k_winners": lambda: KWinners(config.k, dim, boost_strength=config.boost_strength, units=units, magnitude=True),
        "batch_k_winners": lambda: BatchKWinners(config.k, dim, magnitude=True),
        "lifetime_winners": lambda: LifetimeWinners(config.k, dim, magnitude=True),
        "hard_concrete": lambda: _gates(config, units, dim),
        "standout": lambda: Standout(config.standout_alpha, config.standout_beta),
    }
    layer: nn.Module = build[config.regularizer]()
    if config.has_target:
        dial: Any = layer.dial
        setattr(layer, dial.name, dial.warmup_value)
    return layer


def _gates(config: Config, units: int, dim: int) -> HardConcrete:
    """Return gates whose initial values leave the draws of the other weights as they are without gates."""
    with torch.random.fork_rng([]):
        torch.manual_seed(config.seed_of("gates", units))
        return HardConcrete(config.strength, units, dim=dim)
