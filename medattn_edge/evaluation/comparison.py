"""Compare: two sessions on one scan, side by side, in the memory of two slabs."""

from __future__ import annotations

from medattn_edge.agreement import Agreement
from medattn_edge.backends.session import Session
from medattn_edge.evaluation.side_by_side import side_by_side
from medattn_edge.inference.segment import STANDARD, SegmentSettings
from medattn_edge.inference.sliding_window import Progress
from medattn_edge.volume import Volume


def compare(
    reference: Session,
    candidate: Session,
    volume: Volume,
    settings: SegmentSettings = STANDARD,
    progress: Progress | None = None,
) -> tuple[Agreement, Volume, Volume]:
    """The agreement of two sessions on a scan, and the labels (D, H, W) of the reference and of the candidate.

    The logits are those on the scan's own grid, from which the labels are taken. Logits of the candidate that are not
    finite make Agreement.finite False. progress counts the windows of both sessions.
    Raises what `side_by_side` raises, and BackendError when the candidate's runtime fails.
    """
    seen = side_by_side(reference, {"candidate": candidate}, volume, settings, progress)
    if seen.failed:
        raise seen.failed["candidate"]
    agreement, labels = seen.agreed["candidate"]
    return agreement, seen.labels, labels
