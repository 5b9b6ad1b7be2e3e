"""Sparse activations made use of: a trained model that skips its zeros and loses its dead units."""

from sparseout.inference.layer import SkipZerosLinear, restore

__all__ = ["SkipZerosLinear", "restore"]
