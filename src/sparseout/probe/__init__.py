"""Measure the sparsity of any `torch.nn.Module` while it runs."""

from sparseout.probe.history import read_history
from sparseout.probe.probe import Probe
from sparseout.records.layer_record import MEASURE_TITLES, Histogram, LayerRecord
from sparseout.records.probe_summary import Comparison, ProbeSettings, Summary
from sparseout.records.unit_activity import Excitation, Unit, UnitActivity

__all__ = [
    "MEASURE_TITLES",
    "Comparison",
    "Excitation",
    "Histogram",
    "LayerRecord",
    "Probe",
    "ProbeSettings",
    "Summary",
    "Unit",
    "UnitActivity",
    "read_history",
]
