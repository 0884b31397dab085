"""CaseResult: what came of one case, wherever it was done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from medattn_edge.cohort.case import Failure

Record = dict[str, Any]
TOLD = ("case", "scan", "files", "labels", "seconds", "cpu_seconds", "scan_bytes")  # of a record, in the outcome


@dataclass(frozen=True, eq=False)
class CaseResult:
    """What came of one case.

    Attributes:
        record: of a case that is done; of `TOLD` and `notes` at least.
        before: whether it was done before this run.
        failure: why it was not segmented; beside a record, why its files are not in the archive.
        left_out: whether that is no failure, but a series that is no scan for this network.
        voxel_bytes: of the scan that was read; 0 where none was.
        sent: whether its DICOM files are in the archive that they were to go to.
    """

    record: Record | None = None
    before: bool = False
    failure: Failure | None = None
    left_out: bool = False
    voxel_bytes: int = 0
    sent: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, of a record only what is told of it."""
        record = None if self.record is None else {name: self.record.get(name) for name in (*TOLD, "notes")}
        failure = None if self.failure is None else asdict(self.failure)
        return {
            "record": record,
            "before": self.before,
            "failure": failure,
            "left_out": self.left_out,
            "voxel_bytes": self.voxel_bytes,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> CaseResult:
        """The result that `to_json` wrote."""
        failure = None if value["failure"] is None else Failure(**value["failure"])
        return cls(**{**value, "failure": failure})
