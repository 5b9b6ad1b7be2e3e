"""Faster inference with sparse activations: skip the zeros, and remove dead units."""

from sparseout.inference.dead import drop_dead
from sparseout.inference.drop_report import Dropped, DropReport
from sparseout.inference.layer import SkipZerosLinear, restore
from sparseout.inference.report import LayerSpeed, Refusal, SkipReport
from sparseout.inference.skip import skip_zeros

__all__ = [
    "DropReport",
    "Dropped",
    "LayerSpeed",
    "Refusal",
    "SkipReport",
    "SkipZerosLinear",
    "drop_dead",
    "restore",
    "skip_zeros",
]
