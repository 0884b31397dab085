"""What a worker of a process pool runs in the tests of errors; it imports little, because each worker does it."""

from __future__ import annotations

from medattn_edge.errors import MissingDependency
from medattn_edge.io.dicom.reasons import RefusedSeries


def refuse(reason: str) -> None:
    """Raise RefusedSeries for the reason, MissingDependency without one."""
    if reason:
        raise RefusedSeries(reason, "found in another process")
    raise MissingDependency.of_extra("nrrd", "nrrd")
