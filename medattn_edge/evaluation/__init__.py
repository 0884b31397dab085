"""Measurement: how fast files are on this host, each beside how well it agrees with the reference."""

from medattn_edge.evaluation.candidate import BenchCandidate, BenchSettings, executed_in, gate_of
from medattn_edge.evaluation.measure import measure
from medattn_edge.evaluation.report import BenchReport, BenchRow
from medattn_edge.evaluation.roofline import Peak, peak

__all__ = [
    "BenchCandidate",
    "BenchReport",
    "BenchRow",
    "BenchSettings",
    "Peak",
    "executed_in",
    "gate_of",
    "measure",
    "peak",
]
