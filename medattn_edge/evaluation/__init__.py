"""Evaluation: how well files agree with their reference, and how fast they are on this host."""

from medattn_edge.evaluation.candidate import BenchCandidate, BenchSettings, computed_as, gate_of
from medattn_edge.evaluation.comparison import Comparison, ComparisonSettings, compare
from medattn_edge.evaluation.expected_scan import ScanFit, fit_scan
from medattn_edge.evaluation.measure import measure_candidates
from medattn_edge.evaluation.measurement import Measurement, MeasurementPlan, PlanSettings, measure, plan_measurement
from medattn_edge.evaluation.reference_cache import ReferenceCache
from medattn_edge.evaluation.report import BenchReport, BenchRow
from medattn_edge.evaluation.roofline import Peak, peak
from medattn_edge.evaluation.scan_result import ExpectedScan
from medattn_edge.evaluation.true_labels import TrueLabels

__all__ = [
    "BenchCandidate",
    "BenchReport",
    "BenchRow",
    "BenchSettings",
    "Comparison",
    "ComparisonSettings",
    "ExpectedScan",
    "Measurement",
    "MeasurementPlan",
    "Peak",
    "PlanSettings",
    "ReferenceCache",
    "ScanFit",
    "TrueLabels",
    "compare",
    "computed_as",
    "fit_scan",
    "gate_of",
    "measure",
    "measure_candidates",
    "peak",
    "plan_measurement",
]
