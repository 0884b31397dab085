"""Segment a cohort: one open session, one case after the other, the next one read while the network runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from medattn_edge.backends.session import Session
from medattn_edge.cohort.case import CaseList, Failure
from medattn_edge.cohort.cases import find_cases
from medattn_edge.cohort.fingerprint import artifact_sha256
from medattn_edge.cohort.folder import CohortFolder
from medattn_edge.cohort.naming import Job, jobs_of
from medattn_edge.cohort.one_case import CaseRunner, Taken, failure_of
from medattn_edge.cohort.records import read_record
from medattn_edge.cohort.settings import CohortSettings
from medattn_edge.cohort.tables import FAILURES, LEFT_OUT, VOLUMES, failures_csv, is_table, volumes_csv
from medattn_edge.errors import MissingDependency, ModalityError, OutputError, UsageError
from medattn_edge.inference import OpenArtifact
from medattn_edge.inference.cleanup import check_cleanup
from medattn_edge.inference.handover import QUEUE_DEPTH, prefetch
from medattn_edge.inference.workflow import algorithm_of_run
from medattn_edge.io.dicom.reasons import RefusedSeries
from medattn_edge.io.listed_channels import ListedChannels
from medattn_edge.reasons import NO_SCAN

CohortProgress = Callable[[str, float, int], None]  # the case, cases done with the part of this one, cases in total
STANDARD: Final = CohortSettings()
_TABLES_S: Final = 30.0  # between two writings of the tables while cases are done


@dataclass(frozen=True, eq=False)
class CohortOutcome:
    """The outcome of a cohort.

    Attributes:
        folder: with the results, one record for each case, and the tables.
        done: what was segmented: its `case`, `scan`, `files`, `labels` and `seconds`.
        skipped: the names of cases that were done before, by content.
        failures: cases that were not segmented.
        left_out: series that are no scans for this network.
        notes: for people.
        session: the session's facts: what ran where.
        seconds: in total.
        largest_scan_mb: the largest scan's voxels in 1e6 bytes; two scans are in memory at a time.
    """

    folder: Path
    done: tuple[dict[str, Any], ...]
    skipped: tuple[str, ...]
    failures: tuple[Failure, ...]
    left_out: tuple[Failure, ...]
    notes: tuple[str, ...]
    session: dict[str, Any]
    seconds: float
    largest_scan_mb: float

    @property
    def passed(self) -> bool:
        """Whether no case failed."""
        return not self.failures

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "folder": str(self.folder),
            "tables": [VOLUMES, FAILURES, LEFT_OUT],
            "done": list(self.done),
            "skipped": list(self.skipped),
            "failures": [asdict(one) for one in self.failures],
            "left_out": [asdict(one) for one in self.left_out],
            "notes": list(self.notes),
            "session": self.session,
            "seconds": self.seconds,
            "largest_scan_mb": self.largest_scan_mb,
        }


def segment_cohort(
    artifact: Path | str,
    cases: CaseList | Path | str | Sequence[Path | str],
    folder: Path | str,
    *,
    settings: CohortSettings = STANDARD,
    progress: CohortProgress | None = None,
    failed: Callable[[Failure], None] | None = None,
) -> CohortOutcome:
    """Segment many scans into a folder, with a session that is opened once.

    Every case's files appear together or not at all, with a record of it, NAME.json: the SHA-256 of scan and artifact,
    all settings, the measures of every label and the seconds of each stage (`read`, `prepare`, `network`, `restore`,
    `measure`, `write`). A case that fails is told and the next one done. While the network runs, a thread reads the
    next scan: two are in memory at a time. `volumes.csv`, `failures.csv` and `left_out.csv` are written now and then,
    and whenever this returns or raises.

    Args:
        artifact: an artifact or a checkpoint.
        cases: of `find_cases`, or what that takes.
        folder: for the results; it is made where its own folder is there.
        settings: names, what to write, how to segment, and whether to go on where another run was ended.
        progress: called with the name of a case, the cases done (with the part of it that is) and their number.
        failed: called with each failure.

    Raises:
        UsageError: for settings or names that make no sense, two cases of one name, results of an earlier run without
            `resume`, another run in the same folder; nothing was done then.
        ScanError: when there is no case.
        OutputError: when the folder cannot be written; what was done stays, and `resume` goes on.
        MissingDependency, IntegrityError, BackendError: as `open_session` does, and for what the network needs.
    """
    place = Path(folder)
    if not isinstance(cases, CaseList):
        cases = find_cases([cases] if isinstance(cases, Path | str) else cases, apart_from=place)
    settings.segment.check()
    jobs = jobs_of(cases.cases, settings)
    start = time.perf_counter()
    with CohortFolder(place).opened() as opened:
        _check_free(place, jobs, settings.resume)
        with settings.opening.open(artifact) as session:
            runner = CaseRunner(
                opened, _open(Path(artifact), session, jobs, settings), artifact_sha256(Path(artifact)), settings,
                cases.choices,
            )  # fmt: skip
            run = _Run(runner, jobs, cases, failed)
            run.all(progress)
            return run.outcome(dict(session.facts), time.perf_counter() - start)


class _Run:
    """What is known of each case so far."""

    def __init__(
        self, runner: CaseRunner, jobs: Sequence[Job], cases: CaseList, failed: Callable[[Failure], None] | None
    ) -> None:
        self._runner, self._jobs, self._cases, self._failed = runner, jobs, cases, failed
        self._labels = {job.name: labels for job in jobs if (labels := runner.labels_before(job)) is not None}
        self._done: list[dict[str, Any]] = []
        self._skipped: list[str] = []
        self._failures: list[Failure] = []
        self._left_out = list(cases.left_out)
        self._notes: dict[str, int] = {}
        self._published = time.monotonic()

    def all(self, progress: CohortProgress | None) -> None:
        """Every case in turn."""
        whole = False
        try:
            with closing(prefetch(self._runner.taken(self._jobs))) as items:
                for number, item in enumerate(items):
                    self._one(item, number, progress)
                    del item  # its voxels, before the next one is waited for
            whole = True
        finally:
            for job in self._jobs:
                _release(job)
            with suppress(*(() if whole else (OutputError,))):
                self._publish()

    def outcome(self, session: dict[str, Any], seconds: float) -> CohortOutcome:
        """All of it."""
        return CohortOutcome(
            self._runner.folder.path,
            tuple(self._done),
            tuple(self._skipped),
            tuple(self._failures),
            tuple(self._left_out),
            self._all_notes(),
            session,
            seconds,
            self._runner.largest_bytes / 1e6,
        )

    def _one(self, item: Taken, number: int, progress: CohortProgress | None) -> None:
        job, count = item.job, len(self._jobs)
        if progress is not None:
            progress(job.name, number, count)
        if item.record is not None:
            self._skipped.append(job.name)
            self._labels[job.name] = item.record["labels"]
        else:
            self._segment(item, number, progress)
        _release(job)
        if progress is not None:
            progress(job.name, number + 1, count)
        if time.monotonic() - self._published > _TABLES_S:
            self._publish()

    def _segment(self, item: Taken, number: int, progress: CohortProgress | None) -> None:
        job, count = item.job, len(self._jobs)

        def windows(done: int, total: int) -> None:
            if progress is not None:
                progress(job.name, number + done / max(1, total), count)

        try:
            record = self._runner.segment(item, windows)
        except OutputError:
            raise  # the next case would meet the same disk
        except Exception as error:  # noqa: BLE001 - one case's failure, even of a bug, is not the others'
            self._labels.pop(job.name, None)
            failure = failure_of(job, error)
            no_scan = isinstance(error, RefusedSeries) and error.reason in NO_SCAN
            if job.case.found and (no_scan or isinstance(error, ModalityError)):
                self._left_out.append(failure)
                return
            self._failures.append(failure)
            if self._failed is not None:
                self._failed(failure)
            return
        self._labels[job.name] = record["labels"]
        self._done.append({key: record[key] for key in ("case", "scan", "files", "labels", "seconds")})
        for note in record["notes"]:
            self._notes[note] = self._notes.get(note, 0) + 1

    def _publish(self) -> None:
        names = [job.name for job in self._jobs]
        folder = self._runner.folder
        folder.publish(VOLUMES, volumes_csv((name, self._labels[name]) for name in names if name in self._labels))
        folder.publish(FAILURES, failures_csv(self._failures))
        folder.publish(LEFT_OUT, failures_csv(self._left_out))
        self._published = time.monotonic()

    def _all_notes(self) -> tuple[str, ...]:
        notes = list(self._cases.notes)
        notes += [f"{note} ({count} of {len(self._done)} cases)" for note, count in self._notes.items()]
        if self._done and find_spec("scipy") is None:
            notes.append(f"no components in {VOLUMES}: they need scipy, of the extra 'cleanup'")
        if self._done:
            largest = self._runner.largest_bytes / 1e6
            notes.append(
                f"the next scan was read while the network ran: {QUEUE_DEPTH} scans in memory at most, the largest of "
                f"them {largest:.3g} MB"
            )
        return tuple(notes)


def _release(job: Job) -> None:
    if job.case.scan is not None:
        job.case.scan.release()


def _open(artifact: Path, session: Session, jobs: Sequence[Job], settings: CohortSettings) -> OpenArtifact:
    """The session with its name for DICOM results, once it is known that its labels can be written."""
    spec, outputs = session.spec, jobs[0].outputs
    outputs.check_spec(spec)
    check_cleanup(spec)
    listed = next((job.case.scan for job in jobs if isinstance(job.case.scan, ListedChannels)), None)
    if listed is not None:
        listed.assignment(spec)  # the columns of a list are those of all its rows
    if outputs.dicom_file is None:
        return OpenArtifact(session)
    if find_spec("highdicom") is None:
        raise MissingDependency.of_extra("highdicom", "dicom")
    return OpenArtifact(
        session, algorithm_of_run(artifact, str(session.facts["backend"]), spec, outputs, settings.segment)
    )


def _check_free(folder: Path, jobs: Sequence[Job], resume: bool) -> None:
    """Nothing of an earlier run is replaced unless it was meant, and nothing of somebody else ever."""
    written = {(folder / name).resolve() for job in jobs for name in job.names}
    for job in jobs:
        parts = job.case.scan.paths if job.case.scan is not None else ()
        if own := [path for path in parts if path.resolve() in written]:
            raise UsageError(
                f"{own[0]} is a scan of this cohort, and a result of it would have the same place",
                expected="results in a folder of their own",
                hint="-o ANOTHER_FOLDER/",
            )
    foreign = [name for name in (VOLUMES, FAILURES, LEFT_OUT) if not is_table(folder / name)]
    if foreign:
        raise UsageError(
            f"{folder / foreign[0]} is no table of a cohort",
            expected="a folder of its own for the results",
            hint="-o ANOTHER_FOLDER/",
        )
    if resume:
        return
    there = [name for job in jobs for name in job.names if (folder / name).exists()]
    there += [name for name in (VOLUMES, FAILURES, LEFT_OUT) if (folder / name).exists()]
    if there:
        records = sum(read_record(folder / job.record) is not None for job in jobs)
        raise UsageError(
            f"{folder} has results already: {', '.join(there[:3])}{', ...' if len(there) > 3 else ''}",
            expected="a folder without them",
            hint=f"--resume goes on where that run ended ({records} of {len(jobs)} cases are there), "
            "or -o ANOTHER_FOLDER/",
        )


__all__ = ["CohortOutcome", "CohortProgress", "segment_cohort"]
