"""Other ways to sparse activations and weights: penalties, selections, and noise; one idea a file.

A layer with a `dial` can be controlled by `sparseout.SparsityTarget`.
"""

from sparseout.regularizers.batch_k_winners import BatchKWinners, batch_k_winners
from sparseout.regularizers.bridgeout import Bridgeout, bridgeout
from sparseout.regularizers.decov import DeCov, decov
from sparseout.regularizers.hard_concrete import HardConcrete, hard_concrete
from sparseout.regularizers.hoyer_square import HoyerSquare, hoyer_square
from sparseout.regularizers.k_winners import KWinners, k_winners
from sparseout.regularizers.kl_target import KLTarget, kl_target
from sparseout.regularizers.l1 import L1, l1
from sparseout.regularizers.lifetime_winners import LifetimeWinners, lifetime_winners
from sparseout.regularizers.parsimonious import Parsimonious, parsimonious
from sparseout.regularizers.penalty import Penalty, penalty
from sparseout.regularizers.shakeout import Shakeout, shakeout
from sparseout.regularizers.standout import Standout, standout
from sparseout.regularizers.transformed_l1 import TransformedL1, transformed_l1

__all__ = [
    "L1",
    "BatchKWinners",
    "Bridgeout",
    "DeCov",
    "HardConcrete",
    "HoyerSquare",
    "KLTarget",
    "KWinners",
    "LifetimeWinners",
    "Parsimonious",
    "Penalty",
    "Shakeout",
    "Standout",
    "TransformedL1",
    "batch_k_winners",
    "bridgeout",
    "decov",
    "hard_concrete",
    "hoyer_square",
    "k_winners",
    "kl_target",
    "l1",
    "lifetime_winners",
    "parsimonious",
    "penalty",
    "shakeout",
    "standout",
    "transformed_l1",
]
