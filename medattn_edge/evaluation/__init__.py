"""Measurement: how fast files are on this host, each beside how well it agrees with the reference."""

from medattn_edge.evaluation.candidate import Candidate, Settings, computed_as, gate_of
from medattn_edge.evaluation.measure import measure
from medattn_edge.evaluation.report import Report, Row
from medattn_edge.evaluation.roofline import Peak, peak

__all__ = ["Candidate", "Peak", "Report", "Row", "Settings", "computed_as", "gate_of", "measure", "peak"]
