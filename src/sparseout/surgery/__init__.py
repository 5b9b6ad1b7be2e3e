"""Surgery on existing models: put Sparseout in, take it out again, and check whether it runs."""

from sparseout.surgery.check import SwapCheck, check_swap
from sparseout.surgery.config import apply_config, config
from sparseout.surgery.edit import restore
from sparseout.surgery.report import Change, Chosen, SwapReport, Unreachable, apply_report
from sparseout.surgery.swap import insert_after, swap_dropout

__all__ = [
    "Change",
    "Chosen",
    "SwapCheck",
    "SwapReport",
    "Unreachable",
    "apply_config",
    "apply_report",
    "check_swap",
    "config",
    "insert_after",
    "restore",
    "swap_dropout",
]
