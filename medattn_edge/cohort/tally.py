"""Tally: what is known of each case so far, and the tables that say it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Protocol

from medattn_edge.cohort.case import CaseList, Failure
from medattn_edge.cohort.case_result import TOLD, CaseResult
from medattn_edge.cohort.folder import CohortFolder
from medattn_edge.cohort.naming import Job
from medattn_edge.cohort.outcome import CohortOutcome
from medattn_edge.cohort.parts import Parts, Row
from medattn_edge.cohort.tables import FAILURES, LEFT_OUT, VOLUMES, failures_csv, volumes_csv
from medattn_edge.errors import OutputError

if TYPE_CHECKING:
    from typing_extensions import Self

_TABLES_S: Final = 30.0  # between two writings of the tables while cases are done


class Taker(Protocol):
    """Who is told what came of each case."""

    @property
    def finished(self) -> int:
        """How many cases something has come of."""

    def take(self, job: Job, result: CaseResult) -> None:
        """What came of a case; raises OutputError when it cannot be written down."""


class Tally:
    """What is known of each case so far. As a context manager it writes the tables in the end, however that comes.

    Attributes:
        finished: how many cases something has come of.
        largest_bytes: of the voxels of the largest scan.
    """

    def __init__(
        self,
        folder: CohortFolder,
        jobs: Sequence[Job],
        cases: CaseList,
        labels: Mapping[str, list[dict[str, Any]]],
        artifact_sha256: str,
        failed: Callable[[Failure], None] | None,
        parts: Parts | None = None,
    ) -> None:
        """Nothing is written yet.

        Args:
            folder: of the results.
            jobs: every case with its names.
            cases: what was left out already, and notes.
            labels: name -> labels of cases that an earlier run has done, as their records say.
            artifact_sha256: of everything that the artifact computes with.
            failed: called with each failure.
            parts: the table of the cases in Parquet, where it is wanted.
        """
        self._parts, self._rows = parts, dict[str, Row]()
        self._folder, self._jobs, self._cases, self._failed = folder, jobs, cases, failed
        self._place = {job.name: number for number, job in enumerate(jobs)}
        self._labels, self._artifact_sha256 = dict(labels), artifact_sha256
        self._done: list[dict[str, Any]] = []
        self._sent: list[str] = []
        self._skipped: list[str] = []
        self._failures: list[Failure] = []
        self._left_out = list(cases.left_out)
        self._notes, self._notes_of_sent = Counter[str](), Counter[str]()
        self._published = time.monotonic()
        self.finished = self.largest_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(*(() if kind is None else (OutputError,))):  # the first error says why
            self._publish()
            if self._parts is not None:
                self._parts.finish(self._rows)

    def take(self, job: Job, result: CaseResult) -> None:
        """What came of a case; raises OutputError when the tables cannot be written."""
        self.finished += 1
        self.largest_bytes = max(self.largest_bytes, result.voxel_bytes)
        record, failure = result.record, result.failure
        if failure is not None:
            if record is None:
                self._labels.pop(job.name, None)
            (self._left_out if result.left_out else self._failures).append(failure)
            if self._failed is not None and not result.left_out:
                self._failed(failure)
        if result.sent:
            self._sent.append(job.name)
        if record is not None:
            self._labels[job.name] = record["labels"]
            if result.before:
                self._skipped.append(job.name)
            else:
                self._done.append({key: record[key] for key in TOLD})
                self._notes.update(record["notes"])
        if self._parts is not None:
            self._rows[job.name] = Row("done") if failure is None else Row.of(failure, result)
            self._parts.take(job, self._rows)
        if time.monotonic() - self._published > _TABLES_S:
            self._publish()

    def note_sent(self, text: str) -> None:
        """Something for people about what the archive said to one case."""
        self._notes_of_sent[text] += 1

    def outcome(
        self, session: dict[str, Any], seconds: float, notes: Sequence[str], workers: tuple[int, int] = (0, 0)
    ) -> CohortOutcome:
        """All of it.

        Args:
            session: the session's facts.
            seconds: in total.
            notes: for people, of a run that has done something.
            workers: how many there were, and how many were lost.
        """
        told = list(self._cases.notes)
        for notes_of, count in ((self._notes, len(self._done)), (self._notes_of_sent, len(self._sent))):
            told += [f"{note} ({number} of {count} cases)" for note, number in notes_of.items()]
        return CohortOutcome(
            self._folder.path,
            tuple(sorted(self._done, key=lambda one: self._place[one["case"]])),
            tuple(sorted(self._skipped, key=self._place.__getitem__)),
            self._in_order(self._failures),
            self._in_order(self._left_out),
            (*told, *(notes if self._done else ())),
            session,
            self._artifact_sha256,
            seconds,
            self.largest_bytes / 1e6,
            *workers,
            parts=self._parts is not None,
            sent=tuple(sorted(self._sent, key=self._place.__getitem__)),
        )

    def _in_order(self, failures: Sequence[Failure]) -> tuple[Failure, ...]:
        """What is no case first, then in the order of the cases, whichever worker was the first."""
        return tuple(sorted(failures, key=lambda one: self._place.get(one.case, -1)))

    def _publish(self) -> None:
        names = [job.name for job in self._jobs]
        known = ((name, self._labels[name]) for name in names if name in self._labels)
        self._folder.publish(VOLUMES, volumes_csv(known))
        self._folder.publish(FAILURES, failures_csv(self._in_order(self._failures)))
        self._folder.publish(LEFT_OUT, failures_csv(self._in_order(self._left_out)))
        self._published = time.monotonic()
