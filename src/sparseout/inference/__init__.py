"""What sparse activations save when a trained model runs: skipped zeros and removed dead units."""

from sparseout.inference.layer import SkipZerosLinear, restore
from sparseout.inference.report import LayerReport, Refusal, SkipReport
from sparseout.inference.skip import skip_zeros

__all__ = ["LayerReport", "Refusal", "SkipReport", "SkipZerosLinear", "restore", "skip_zeros"]
