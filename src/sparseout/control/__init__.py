"""Ask for a sparsity instead of a `q`: controllers that drive Sparseout layers to it."""

from sparseout.control.report import LayerReport, TargetReport
from sparseout.control.target import SparsityTarget
from sparseout.control.transformers_callback import target_callback

__all__ = ["LayerReport", "SparsityTarget", "TargetReport", "target_callback"]
