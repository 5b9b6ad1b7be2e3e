"""Ask for a sparsity instead of a `q`: controllers that drive Sparseout layers to it."""

from sparseout.control.report import Reach, Report
from sparseout.control.target import SparsityTarget
from sparseout.control.transformers_callback import target_callback

__all__ = ["Reach", "Report", "SparsityTarget", "target_callback"]
