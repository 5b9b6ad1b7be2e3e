"""Ask for a sparsity instead of a `q`: controllers that drive Sparseout layers to it."""

from sparseout.target.callback import target_callback
from sparseout.target.reach import Reach, Report
from sparseout.target.sparsity import SparsityTarget

__all__ = ["Reach", "Report", "SparsityTarget", "target_callback"]
