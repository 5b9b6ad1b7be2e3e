"""Sparseout: control and measure how sparse the activations of a PyTorch network are."""

from sparseout import metrics
from sparseout.functional import sparseout
from sparseout.kernels import backends
from sparseout.layers import Sparseout

__version__ = "0.1.0"

__all__ = ["Sparseout", "backends", "metrics", "sparseout"]
