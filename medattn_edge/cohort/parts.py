"""The table of a cohort's cases in Parquet: parts/part-00000.parquet and so on, one for a thousand cases.

A case's part follows from its place in the list. A part is written when something has come of every case in it, and in
the end; it says which cases it is of, so that a later run with another list removes what is not its own: in all parts
together no case is ever twice. What is done is read from its record.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from medattn_edge.atomic import replacing, sync
from medattn_edge.cohort.case import Failure
from medattn_edge.cohort.case_result import CaseResult
from medattn_edge.cohort.folder import CohortFolder
from medattn_edge.cohort.naming import Job
from medattn_edge.cohort.records import read_record
from medattn_edge.errors import (
    BackendError,
    HostError,
    IntegrityError,
    MedattnError,
    MissingDependency,
    OutputError,
)
from medattn_edge.reasons import ARCHIVE_FAULTS, UNEXPECTED, WORKER_HUNG, WORKER_LOST

PARTS: Final = "parts"
CASES_OF_A_PART: Final = 1000
_CASES: Final = b"medattn-edge cases"  # of the schema: a hash of the names, in order
# Codes of what went wrong here, and not with a scan.
_OURS: Final = frozenset(
    {kind.code for kind in (BackendError, HostError, IntegrityError, MedattnError, OutputError)}
    | {UNEXPECTED, WORKER_HUNG, WORKER_LOST}
    | ARCHIVE_FAULTS
)


def check_installed() -> None:
    """Raise MissingDependency without pyarrow."""
    if find_spec("pyarrow") is None:
        raise MissingDependency.of_extra("pyarrow", "parquet")


@dataclass(frozen=True)
class Row:
    """What came of a case.

    Attributes:
        status: `done`, `left_out`, `refused` (its scan) or `failed` (what computes, or an archive).
        failure: why it is not done.
    """

    status: str
    failure: Failure | None = None

    @classmethod
    def of(cls, failure: Failure, result: CaseResult) -> Row:
        """The row of a case that was not segmented, or whose files are not in the archive."""
        ours = failure.code in _OURS or result.record is not None
        return cls("left_out" if result.left_out else "failed" if ours else "refused", failure)


class Parts:
    """The parts of one run.

    Args:
        folder: of the results, opened by this run.
        jobs: every case with its names, in order.

    Raises:
        OutputError: when parts of another list cannot be removed.
    """

    def __init__(self, folder: CohortFolder, jobs: Sequence[Job]) -> None:
        self._folder, self._place = folder, folder.path / PARTS
        self._parts = [jobs[at : at + CASES_OF_A_PART] for at in range(0, len(jobs), CASES_OF_A_PART)]
        self._part_of = {job.name: number for number, part in enumerate(self._parts) for job in part}
        self._left = [len(part) for part in self._parts]
        self._written: set[int] = set()
        with folder.named_errors():
            self._place.mkdir(exist_ok=True)
            sync(folder.path)
            for path in self._place.iterdir():
                if path.name.startswith(".") or not self._is_of_this_run(path):
                    path.unlink()

    def take(self, job: Job, rows: Mapping[str, Row]) -> None:
        """Something has come of a case, which is in `rows`; raises OutputError when its part cannot be written."""
        number = self._part_of[job.name]
        self._left[number] -= 1
        if self._left[number] == 0:
            self._write(number, rows)

    def finish(self, rows: Mapping[str, Row]) -> None:
        """What is known of parts that are not whole; raises OutputError."""
        for number in range(len(self._parts)):
            if number not in self._written:
                self._write(number, rows)

    def _path(self, number: int) -> Path:
        return self._place / f"part-{number:05}.parquet"

    def _is_of_this_run(self, path: Path) -> bool:
        numbers = {self._path(number).name: number for number in range(len(self._parts))}
        parquet = import_module("pyarrow.parquet")
        with suppress(OSError, ValueError):  # pyarrow's own errors are of these kinds
            known = (parquet.read_schema(path).metadata or {}).get(_CASES)
            return path.name in numbers and known == _digest(self._parts[numbers[path.name]])
        return False

    def _write(self, number: int, rows: Mapping[str, Row]) -> None:
        arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
        schema = _schema(arrow).with_metadata({_CASES: _digest(self._parts[number])})
        values = [self._values(job, rows[job.name]) for job in self._parts[number] if job.name in rows]
        table = arrow.Table.from_pylist(values, schema=schema)
        with replacing(self._path(number)) as file:
            parquet.write_table(table, file, compression="zstd")
        self._written.add(number)

    def _values(self, job: Job, row: Row) -> dict[str, Any]:
        values: dict[str, Any] = {"case": job.name, "scan": job.case.shown, "status": row.status}
        if row.failure is not None:
            failure = row.failure
            values |= {"code": failure.code, "message": failure.message, "hint": failure.hint}
            return {name: _text(value) for name, value in values.items()}
        values = {name: _text(value) for name, value in values.items()}
        record = read_record(self._folder.path / job.record)
        if record is None:  # somebody took it away since
            return values
        seconds = record.get("seconds") or {}
        fingerprint = record["fingerprint"]
        return values | {
            "scan_sha256": fingerprint.get("scan_sha256") or fingerprint.get("scan_objects_sha256"),
            "artifact_sha256": fingerprint.get("artifact_sha256"),
            "seconds": float(sum(seconds.values())),
            "cpu_seconds": record.get("cpu_seconds"),
            "scan_bytes": record.get("scan_bytes"),
            "written_bytes": record.get("written_bytes"),
            "files": [{"name": _text(name), "sha256": digest} for name, digest in record["files"].items()],
            "labels": record["labels"],
        }


def remove_parts(folder: Path) -> None:
    """Remove the parts of an earlier run, which would not say what this one does."""
    shutil.rmtree(folder / PARTS, ignore_errors=True)


def _text(value: str) -> str:
    """A name that is no text in UTF-8 with marks in the place of its bytes: Parquet has nothing else."""
    return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _digest(jobs: Sequence[Job]) -> bytes:
    names = "\0".join(job.name for job in jobs)
    return hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest().encode()


def _schema(arrow: Any) -> Any:
    text, number, whole = arrow.string(), arrow.float64(), arrow.int64()
    label = [("label", text), ("voxels", whole), ("ml", number), ("mean", number), ("standard_deviation", number)]
    return arrow.schema(
        [
            ("case", text),
            ("scan", text),
            ("status", text),
            ("code", text),
            ("message", text),
            ("hint", text),
            ("scan_sha256", text),
            ("artifact_sha256", text),
            ("seconds", number),
            ("cpu_seconds", number),
            ("scan_bytes", whole),
            ("written_bytes", whole),
            ("files", arrow.list_(arrow.struct([("name", text), ("sha256", text)]))),
            ("labels", arrow.list_(arrow.struct([*label, ("components", whole)]))),
        ]
    )
