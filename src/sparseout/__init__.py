"""Sparseout: control and measure how sparse the activations of a PyTorch network are."""

from sparseout import metrics
from sparseout.functional import sparseout
from sparseout.layers import LockedSparseout, Sparseout, Sparseout1d, Sparseout2d, Sparseout3d

__version__ = "0.1.0"

__all__ = ["LockedSparseout", "Sparseout", "Sparseout1d", "Sparseout2d", "Sparseout3d", "metrics", "sparseout"]
