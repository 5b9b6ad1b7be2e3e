"""Measure the sparsity of any `torch.nn.Module` while it runs."""

from sparseout.probe.comparison import Comparison
from sparseout.probe.history import read as read_history
from sparseout.probe.hooks import Probe
from sparseout.probe.measures import MEASURES, Histogram, Settings
from sparseout.probe.records import LayerRecord, Summary

__all__ = ["MEASURES", "Comparison", "Histogram", "LayerRecord", "Probe", "Settings", "Summary", "read_history"]
