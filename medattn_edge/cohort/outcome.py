"""CohortOutcome: what came of a cohort."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medattn_edge.cohort.case import Failure
from medattn_edge.cohort.parts import PARTS
from medattn_edge.cohort.tables import FAILURES, LEFT_OUT, VOLUMES


@dataclass(frozen=True, eq=False)
class CohortOutcome:
    """The outcome of a cohort.

    Attributes:
        folder: with the results, one record for each case, and the tables.
        done: what was segmented: its `case`, `scan`, `files`, `labels`, `seconds`, `cpu_seconds` and `scan_bytes`.
        skipped: the names of cases that were done before, by content.
        failures: cases that were not segmented, and those whose files the archive did not take.
        left_out: series that are no scans for this network.
        notes: for people.
        session: the session's facts: what ran where.
        artifact_sha256: of everything that the artifact computed with; what the records say.
        seconds: in total.
        largest_scan_mb: the largest scan's voxels in 1e6 bytes; without workers, two scans are in memory at a time.
        workers: processes that worked; 0 where it was this one.
        workers_lost: how often one of them crashed or hung, and was started again.
        parts: whether the table of the cases is there as Parquet too.
        sent_to: the address of the archive that the DICOM results go to; "" for none.
        sent: the names of the cases whose DICOM files are there.
    """

    folder: Path
    done: tuple[dict[str, Any], ...]
    skipped: tuple[str, ...]
    failures: tuple[Failure, ...]
    left_out: tuple[Failure, ...]
    notes: tuple[str, ...]
    session: dict[str, Any]
    artifact_sha256: str
    seconds: float
    largest_scan_mb: float
    workers: int = 0
    workers_lost: int = 0
    parts: bool = False
    sent_to: str = ""
    sent: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether no case failed."""
        return not self.failures

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "folder": str(self.folder),
            "tables": [VOLUMES, FAILURES, LEFT_OUT, *([PARTS] if self.parts else [])],
            "done": list(self.done),
            "skipped": list(self.skipped),
            "failures": [asdict(one) for one in self.failures],
            "left_out": [asdict(one) for one in self.left_out],
            "notes": list(self.notes),
            "session": self.session,
            "seconds": self.seconds,
            "largest_scan_mb": self.largest_scan_mb,
            "workers": self.workers,
            "workers_lost": self.workers_lost,
            **({"sent": {"to": self.sent_to, "cases": list(self.sent)}} if self.sent_to else {}),
        }
