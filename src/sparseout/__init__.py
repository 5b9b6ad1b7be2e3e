"""Sparseout: control and measure how sparse the activations of a PyTorch network are."""

from sparseout import cli as cli  # first: Ctrl-C may come while torch is imported
from sparseout import metrics, schedule
from sparseout.functional import sparseout
from sparseout.kernels import backends
from sparseout.layers import Sparseout
from sparseout.probe import Probe
from sparseout.structured import LockedSparseout, Sparseout1d, Sparseout2d, Sparseout3d
from sparseout.surgery import SwapReport, check_swap, insert_after, restore, swap_dropout
from sparseout.target import SparsityTarget, target_callback

__version__ = "0.1.0"

__all__ = [
    "LockedSparseout",
    "Probe",
    "Sparseout",
    "Sparseout1d",
    "Sparseout2d",
    "Sparseout3d",
    "SparsityTarget",
    "SwapReport",
    "backends",
    "check_swap",
    "insert_after",
    "metrics",
    "restore",
    "schedule",
    "sparseout",
    "swap_dropout",
    "target_callback",
]
