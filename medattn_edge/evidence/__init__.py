"""Evidence: what is known of artifacts beside their reference, as one page for people and one document for programs."""

from medattn_edge.evidence.gather import check_packages, gather
from medattn_edge.evidence.kept import ComparisonKeeper, KeptComparison, KeptMeasurement
from medattn_edge.evidence.records import AttentionPair, Evidence, LayerFigure, RejectedCandidate
from medattn_edge.evidence.settings import ReportSettings
from medattn_edge.evidence.write import write_report

__all__ = [
    "AttentionPair",
    "ComparisonKeeper",
    "Evidence",
    "KeptComparison",
    "KeptMeasurement",
    "LayerFigure",
    "RejectedCandidate",
    "ReportSettings",
    "check_packages",
    "gather",
    "write_report",
]
