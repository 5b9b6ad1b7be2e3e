"""Measure the sparsity of any `torch.nn.Module` while it runs."""

from sparseout.probe.history import read_history
from sparseout.probe.probe import Probe
from sparseout.records.layer_record import MEASURE_TITLES, Histogram, LayerRecord
from sparseout.records.probe_summary import Comparison, ProbeSettings, Summary

__all__ = ["MEASURE_TITLES", "Comparison", "Histogram", "LayerRecord", "Probe", "ProbeSettings", "Summary", "read_history"]
