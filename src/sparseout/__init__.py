"""Sparseout: control and measure how sparse the activations of a PyTorch network are."""

from sparseout import metrics
from sparseout.functional import sparseout
from sparseout.layers import Sparseout
from sparseout.probe import Probe

__version__ = "0.1.0"

__all__ = ["Probe", "Sparseout", "metrics", "sparseout"]
