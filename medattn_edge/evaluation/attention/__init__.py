"""Attention maps of a scan, the eager network's beside the deployed file's, as files and as one page."""

from medattn_edge.evaluation.attention.agreement import MapAgreement
from medattn_edge.evaluation.attention.explain import explain
from medattn_edge.evaluation.attention.files import check_output, write_explanation
from medattn_edge.evaluation.attention.records import ExplainSettings, Explanation, MapSource, Side

__all__ = [
    "ExplainSettings",
    "Explanation",
    "MapAgreement",
    "MapSource",
    "Side",
    "check_output",
    "explain",
    "write_explanation",
]
