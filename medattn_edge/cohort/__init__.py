"""Many scans, one warm session: which scans there are, each segmented whole or not at all, and what came out."""

from medattn_edge.cohort.archive_cases import archive_cases
from medattn_edge.cohort.case import Case, CaseError, CaseList, Failure, ScanChoices
from medattn_edge.cohort.cases import find_cases, is_case_source, scans_of_cases
from medattn_edge.cohort.run import CohortOutcome, segment_cohort
from medattn_edge.cohort.settings import CohortSettings

__all__ = [
    "Case",
    "CaseError",
    "CaseList",
    "CohortOutcome",
    "CohortSettings",
    "Failure",
    "ScanChoices",
    "archive_cases",
    "find_cases",
    "is_case_source",
    "scans_of_cases",
    "segment_cohort",
]
