"""Measure the sparsity of any `torch.nn.Module` while it runs."""

from sparseout.probe.history import read as read_history
from sparseout.probe.layer_record import LayerRecord
from sparseout.probe.measures import MEASURES, Histogram, Settings
from sparseout.probe.probe import Probe
from sparseout.probe.records import Comparison, Summary

__all__ = ["MEASURES", "Comparison", "Histogram", "LayerRecord", "Probe", "Settings", "Summary", "read_history"]
