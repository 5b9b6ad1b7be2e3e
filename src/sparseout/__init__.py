"""Sparseout: control and measure how sparse the activations of a PyTorch network are."""

from sparseout.cli import interrupt as _interrupt  # noqa: F401 - first, because torch takes seconds to import

# isort: split
from sparseout import metrics, regularizers, schedule
from sparseout.control import SparsityTarget, find_q, lightning_target_callback, target_callback
from sparseout.inference import drop_dead, skip_zeros
from sparseout.layers import Sparseout
from sparseout.op.backends import backends
from sparseout.op.functional import sparseout
from sparseout.probe import Probe
from sparseout.regularizers import penalty
from sparseout.structured import LockedSparseout, Sparseout1d, Sparseout2d, Sparseout3d
from sparseout.surgery import SwapReport, apply_config, check_swap, config, insert_after, restore, swap_dropout

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
    "apply_config",
    "backends",
    "check_swap",
    "config",
    "drop_dead",
    "find_q",
    "insert_after",
    "lightning_target_callback",
    "metrics",
    "penalty",
    "regularizers",
    "restore",
    "schedule",
    "skip_zeros",
    "sparseout",
    "swap_dropout",
    "target_callback",
]
