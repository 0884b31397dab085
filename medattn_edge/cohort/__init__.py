"""Many scans, warm sessions: which scans there are, each segmented whole or not at all, and what came out."""

from medattn_edge.cohort.archive_cases import archive_cases
from medattn_edge.cohort.case import Case, CaseError, CaseList, Failure, ScanChoices
from medattn_edge.cohort.cases import find_cases, is_case_source, scans_of_cases
from medattn_edge.cohort.estimation import Estimate, estimate
from medattn_edge.cohort.outcome import CohortOutcome
from medattn_edge.cohort.run import segment_cohort
from medattn_edge.cohort.settings import CohortSettings, PoolSettings

__all__ = [
    "Case",
    "CaseError",
    "CaseList",
    "CohortOutcome",
    "CohortSettings",
    "Estimate",
    "Failure",
    "PoolSettings",
    "ScanChoices",
    "archive_cases",
    "estimate",
    "find_cases",
    "is_case_source",
    "scans_of_cases",
    "segment_cohort",
]
