"""Sending: the DICOM results of each case to an archive, and once more in the end what it did not take then.

What is stored is in the case's record, so that a later run sends the rest and nothing twice. A run that is killed
between the two sends again, which is harmless: the UIDs follow from the input, and the archive has these objects.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from medattn_edge.cohort.case import Failure
from medattn_edge.cohort.case_result import CaseResult
from medattn_edge.cohort.folder import CohortFolder
from medattn_edge.cohort.naming import Job
from medattn_edge.cohort.one_case import failure_of
from medattn_edge.cohort.records import read_record, record_text
from medattn_edge.cohort.tally import Taker, Tally
from medattn_edge.errors import MedattnError, ScanError, UsageError, quoted
from medattn_edge.io.dicom.files import SUFFIXES
from medattn_edge.io.dicomweb.address import Archive
from medattn_edge.io.dicomweb.errors import ArchiveError
from medattn_edge.io.dicomweb.store import FINAL, OF_ALL, read_object, store

HOLD_S: Final = 30.0  # an archive that did not answer is left alone so long
PAUSES_S: Final = (0.0, 5.0, 20.0)  # before each further round in the end


@contextmanager
def sending_to(archive: Archive | None, folder: CohortFolder, tally: Tally) -> Iterator[Taker]:
    """Who takes what comes of cases: the tally, or for an archive `Sending`, which is finished when the block is."""
    if archive is None:
        yield tally
        return
    sending = Sending(archive, folder, tally)
    yield sending
    sending.finish()


class Sending:
    """Passes what came of a case on to the tally, once its DICOM files are stored or are given up.

    Args:
        archive: where they go.
        folder: of the results.
        tally: who is told.
    """

    def __init__(self, archive: Archive, folder: CohortFolder, tally: Tally) -> None:
        self._archive, self._folder, self._tally = archive, folder, tally
        self._waiting: list[tuple[Job, CaseResult, MedattnError]] = []
        self._down: MedattnError | None = None
        self._hold_until = 0.0

    @property
    def finished(self) -> int:
        """How many cases something has come of, with those that wait for the archive."""
        return self._tally.finished + len(self._waiting)

    def take(self, job: Job, result: CaseResult) -> None:
        """What came of a case; raises OutputError when a record or the tables cannot be written."""
        if result.record is None:
            self._tally.take(job, result)
        elif self._down is not None and time.monotonic() < self._hold_until:
            self._waiting.append((job, result, self._down))
        else:
            self._down = self._try(job, result)
            self._hold_until = time.monotonic() + HOLD_S

    def finish(self) -> None:
        """The rounds in the end; what is not stored then has failed. Raises as `take`."""
        for pause in PAUSES_S:
            if not self._waiting:
                return
            time.sleep(pause)
            waiting, self._waiting, down = self._waiting, [], None
            for job, result, error in waiting:
                if down is None:
                    down = self._try(job, result)
                else:  # it would meet the same
                    self._waiting.append((job, result, error))
        for job, result, error in self._waiting:
            self._tally.take(job, replace(result, failure=_failure(job, error)))
        self._waiting = []

    def _try(self, job: Job, result: CaseResult) -> MedattnError | None:
        """Send a case's files; what keeps any case's from being stored, None where nothing does."""
        try:
            self._send(job)
        except ArchiveError as error:
            if error.reason in FINAL:
                self._tally.take(job, replace(result, failure=_failure(job, error)))
                return None
            self._waiting.append((job, result, error))
            return error if error.reason in OF_ALL else None
        except (ScanError, UsageError) as error:
            self._tally.take(job, replace(result, failure=_failure(job, error)))
            return None
        self._tally.take(job, replace(result, sent=True))
        return None

    def _send(self, job: Job) -> None:
        """Store what the archive has not got yet, and note each in the record.

        Raises:
            ArchiveError: for the first that is not stored.
            ScanError: a file is no DICOM any more.
            OutputError: the record cannot be written.
        """
        from medattn_edge.io.dicomweb.client import Connection

        record = read_record(self._folder.path / job.record)
        if record is None:  # somebody took it away since, and the files may be anybody's
            raise UsageError(f"{job.record} is gone", expected="the record of the case", hint="--resume makes it again")
        sent: dict[str, str] = record.setdefault("sent", {}).setdefault(self._archive.url, {})
        names = [name for name in record["files"] if name.lower().endswith(SUFFIXES)]
        missing = [name for name in names if sent.get(name) != record["files"][name]]
        if not missing:
            return
        warnings = set[int]()
        with Connection(self._archive) as connection:
            for name in missing:
                warnings.add(store(connection, read_object(self._folder.path / name)))
                sent[name] = record["files"][name]
                self._folder.publish(job.record, record_text(record))
        for warning in sorted(warnings - {0}):
            self._tally.note_sent(f"the archive stored a result with the warning 0x{warning:04X}")


def check_target(archive: Archive, jobs: Sequence[Job]) -> None:
    """What stands against sending anything, before anything is done.

    Raises:
        UsageError: nothing that is written is DICOM.
        ArchiveError: the archive does not answer, or not as DICOMweb.
    """
    from medattn_edge.io.dicomweb.client import Connection

    if jobs and all(job.outputs.dicom_file is None for job in jobs):
        raise UsageError(
            f"results to {archive.url} with the labels {jobs[0].outputs.labels.name}",
            expected="a DICOM result",
            hint="--name '{case}.seg.dcm', or --rtstruct '{case}.rtstruct.dcm'",
        )
    try:
        with Connection(archive) as connection:
            connection.check()
    except ArchiveError as error:
        if error.reason in OF_ALL:  # one that stores and lists nothing is as good
            raise


def _failure(job: Job, error: MedattnError) -> Failure:
    failure = failure_of(job, error)
    return replace(
        failure,
        message=f"segmented, and not stored: {failure.message}",
        hint=f"{failure.hint}; --resume sends it again, {quoted(job.record)} and its files stay",
    )
