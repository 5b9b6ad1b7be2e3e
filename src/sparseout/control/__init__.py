"""Control the sparsity of a model: set a target, and controllers adjust the `q` of Sparseout or the dial of another layer."""

from sparseout.control.finder import find_q
from sparseout.control.found_range import FoundRange, Point
from sparseout.control.lightning_callback import lightning_target_callback
from sparseout.control.report import LayerReport, TargetReport
from sparseout.control.running_loss import RunningLoss
from sparseout.control.target import SparsityTarget
from sparseout.control.transformers_callback import target_callback

__all__ = [
    "FoundRange",
    "LayerReport",
    "Point",
    "RunningLoss",
    "SparsityTarget",
    "TargetReport",
    "find_q",
    "lightning_target_callback",
    "target_callback",
]
