"""What an archive that speaks DICOMweb may do wrong: not answer as it should, or answer with other data."""

from __future__ import annotations

from medattn_edge.errors import HostError, ScanError
from medattn_edge.reasons import ARCHIVE_REASONS


class ArchiveError(HostError):
    """An archive that cannot be reached, or does not do what it was asked.

    Attributes:
        reason: a code of `medattn_edge.reasons.ARCHIVE_REASONS`.
        status: of HTTP, 0 where there was none.
    """

    code = "archive"

    def __init__(self, reason: str, url: str, detail: str = "", *, status: int = 0) -> None:
        known = ARCHIVE_REASONS[reason]
        self.reason, self.status = reason, status
        more = "; ".join([*([f"HTTP {status}"] if status else []), *([detail] if detail else [])])
        super().__init__(
            f"the archive {url}: {known.meaning}{f' ({more})' if more else ''}",
            expected="a DICOMweb service that answers",
            hint=known.action,
        )


class ArchiveDataError(ScanError):
    """What an archive has, or has sent, is not the scan that was asked for.

    Attributes:
        reason: a code of `medattn_edge.reasons.ARCHIVE_REASONS`.
    """

    code = "archive_data"

    def __init__(self, reason: str, url: str, detail: str, *, expected: str = "", hint: str = "") -> None:
        known = ARCHIVE_REASONS[reason]
        self.reason = reason
        super().__init__(
            f"the archive {url}: {known.meaning} ({detail})",
            expected=expected or "every object of the series, once, and nothing else",
            hint=hint or known.action,
        )
