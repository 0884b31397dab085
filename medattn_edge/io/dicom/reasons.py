"""RefusedSeries: the error for a DICOM series that cannot become a volume; it never has an identifier in it."""

from __future__ import annotations

from medattn_edge.errors import ScanError
from medattn_edge.reasons import SERIES_REASONS


class RefusedSeries(ScanError):
    """A DICOM series that cannot become a volume.

    Attributes:
        reason: a code of `medattn_edge.reasons.SERIES_REASONS`.
        detail: what is wrong with it, without identifiers and without names of files.
    """

    def __init__(self, reason: str, detail: str, *, hint: str = "") -> None:
        """Without `hint`, the next step is the action of the reason."""
        known = SERIES_REASONS[reason]
        self.reason, self.detail = reason, detail
        super().__init__(
            f"the series is refused, {reason}: {known.meaning} ({detail})",
            expected="the whole and regular series of one CT, MR or PET scan",
            hint=hint or known.action,
        )
