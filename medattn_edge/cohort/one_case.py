"""One case of a cohort: looked up, read, segmented, measured, written."""

from __future__ import annotations

import time
import traceback
from collections.abc import Generator, Sequence
from dataclasses import dataclass

from medattn_edge.artifact import sha256
from medattn_edge.cohort.case import CaseError, Failure, ScanChoices
from medattn_edge.cohort.case_result import CaseResult, Record
from medattn_edge.cohort.cases import scan_of
from medattn_edge.cohort.fingerprint import ScanContent, channels_of, settings_of
from medattn_edge.cohort.folder import CohortFolder
from medattn_edge.cohort.measures import measured
from medattn_edge.cohort.naming import Job
from medattn_edge.cohort.records import is_ours, is_whole, read_record, write_record
from medattn_edge.cohort.settings import CohortSettings
from medattn_edge.errors import BackendError, MedattnError, ModalityError, OutputError
from medattn_edge.inference import OpenArtifact, Outcome, segment_to
from medattn_edge.inference.sliding_window import Progress
from medattn_edge.io.dicom.reasons import RefusedSeries
from medattn_edge.io.modality import check_modality
from medattn_edge.reasons import CHANGED_OUTPUT, COHORT_REASONS, NO_SCAN, UNEXPECTED
from medattn_edge.volume import Volume


@dataclass(frozen=True, eq=False)
class Taken:
    """A case that was looked up, and read where that was needed.

    Attributes:
        job: the case with its names.
        record: of an earlier run, when the case is done.
        volume: the scan's voxels.
        fingerprint: what the result will follow from.
        scan_bytes: of the files of the scan.
        seconds: of hashing and reading.
        error: what went wrong.
    """

    job: Job
    record: Record | None = None
    volume: Volume | None = None
    fingerprint: Record | None = None
    scan_bytes: int = 0
    seconds: float = 0.0
    error: Exception | None = None


class CaseRunner:
    """What is the same for every case."""

    def __init__(
        self,
        folder: CohortFolder,
        artifact: OpenArtifact,
        artifact_sha256: str,
        settings: CohortSettings,
        choices: ScanChoices,
    ) -> None:
        self._folder, self._cpu_s = folder, time.process_time()
        self._artifact, self._sha256, self._settings, self._choices = artifact, artifact_sha256, settings, choices

    def taken(self, jobs: Sequence[Job]) -> Generator[Taken, None, None]:
        """Every case in turn, looked up and read; what goes wrong is in it."""
        for job in jobs:
            try:
                item = self._taken(job)
            except Exception as error:  # noqa: BLE001 - one case's failure, even of a bug, is not the others'
                item = Taken(job, error=error)
            yield item
            del item

    def result(self, item: Taken, progress: Progress) -> CaseResult:
        """What comes of a case that was taken; it is written in the end.

        Raises:
            OutputError: the folder cannot be written: the next case would meet the same disk.
        """
        job, read = item.job, 0 if item.volume is None else item.volume.voxels.nbytes
        try:
            if item.record is not None:
                return CaseResult(item.record, before=True)
            return CaseResult(self._segmented(item, progress), voxel_bytes=read)
        except OutputError:
            raise
        except Exception as error:  # noqa: BLE001 - one case's failure, even of a bug, is not the others'
            no_scan = isinstance(error, RefusedSeries) and error.reason in NO_SCAN
            left_out = job.case.found and (no_scan or isinstance(error, ModalityError))
            return CaseResult(failure=failure_of(job, error), left_out=left_out, voxel_bytes=read)
        finally:
            job.case.release()
            self._cpu_s = time.process_time()

    def _segmented(self, item: Taken, progress: Progress) -> Record:
        """Segment, measure and write a case; its record.

        Raises:
            MedattnError: what went wrong when the case was read, and as `segment_to` does.
        """
        if item.error is not None:
            raise item.error
        job, scan = item.job, scan_of(item.job.case)
        assert item.volume is not None
        with self._folder.draft(job) as draft:
            outcome = segment_to(
                self._artifact,
                scan,
                job.outputs_in(draft),
                settings=self._settings.segment,
                progress=progress,
                volume=item.volume,
            )
            start = time.perf_counter()
            labels = [one.to_json() for one in measured(outcome.segmentation, item.volume)]
            measure = time.perf_counter() - start
            files = {job.final_name(path.name): sha256(path) for path in sorted(draft.iterdir())}
            seconds = {
                "read": item.seconds,
                **outcome.segmentation.seconds,
                "measure": measure,
                "write": outcome.seconds["write"],
            }
            record = self._record(job, outcome) | {
                "fingerprint": item.fingerprint,
                "files": files,
                "labels": labels,
                "seconds": seconds,
                "cpu_seconds": time.process_time() - self._cpu_s,
                "scan_bytes": item.scan_bytes,
                "written_bytes": sum(path.stat().st_size for path in draft.iterdir()),
            }
            with self._folder.named_errors():
                write_record(draft / job.record, record)
        return record

    def _taken(self, job: Job) -> Taken:
        start, case, segment = time.perf_counter(), job.case, self._settings.segment
        scan, spec = scan_of(case), self._artifact.session.spec
        scan.keep_in(self._folder.passing(job))
        # Of an archive's series the list says enough: what is done is not retrieved again.
        listed = scan.listed_sha256()
        if listed and (record := self._done(job, {"scan_objects_sha256": listed})) is not None:
            return Taken(job, record)
        scan.assignment(spec)
        check_modality(spec, scan.all_series, segment.any_modality)
        outputs = job.outputs_in(self._folder.path)
        outputs.check(scan)
        outputs.check_apart_from(scan.files)
        content = ScanContent.of(scan)
        of_scan = {"scan_objects_sha256": listed} if listed else {"scan_sha256": content.sha256}
        if not listed and (record := self._done(job, of_scan)) is not None:
            return Taken(job, record)
        self._check_outputs(job, read_record(self._folder.path / job.record))
        outputs.check_frame_of_reference(scan)
        volume = scan.read()
        content.check(scan, case.shown)
        fingerprint = self._fingerprint(job, of_scan)
        return Taken(job, None, volume, fingerprint, content.size, time.perf_counter() - start)

    def _done(self, job: Job, of_scan: Record) -> Record | None:
        """The record of a case that is done as it would be done now, None where there is none."""
        record = read_record(self._folder.path / job.record)
        same = record is not None and record["fingerprint"] == self._fingerprint(job, of_scan)
        return record if record is not None and same and is_whole(self._folder.path, record) else None

    def _fingerprint(self, job: Job, of_scan: Record) -> Record:
        return {**of_scan, "artifact_sha256": self._sha256, "settings": self._settings_of(job)}

    def _check_outputs(self, job: Job, record: Record | None) -> None:
        """What somebody changed, or put there, is not replaced."""
        for name in job.names:
            path = self._folder.path / name
            ours = record is not None if name == job.record else is_ours(path, record)
            if path.exists() and not ours:
                raise CaseError(CHANGED_OUTPUT, str(path))

    def _settings_of(self, job: Job) -> Record:
        return settings_of(self._artifact.session, job, self._settings.segment, self._choices)

    def _record(self, job: Job, outcome: Outcome) -> Record:
        """What `infer` tells of a scan, with names instead of paths."""
        case = job.case
        return {
            "case": job.name,
            **outcome.to_json(),
            "scan": case.shown,
            "written": {what: job.final_name(path.name) for what, path in outcome.written.items()},
            "channels": channels_of(case, self._artifact.session.spec),
            "notes": [case.without_paths(note) for note in outcome.notes],
        }


def failure_of(job: Job, error: Exception) -> Failure:
    """What is said of a case that failed, under its name in the tables."""
    case = job.case
    if isinstance(error, MemoryError):
        error = BackendError("memory ran out", expected="room for two scans", hint="a machine with more memory")
    if isinstance(error, MedattnError):
        failure = Failure.of(case, error)
        return Failure(job.name, failure.scan, failure.code, failure.message, failure.hint)
    known = COHORT_REASONS[UNEXPECTED]
    text = case.without_paths("".join(traceback.format_exception(error)))
    message = case.without_paths(f"{known.meaning}: {type(error).__name__}: {error}")
    return Failure(job.name, case.shown, UNEXPECTED, message, known.action, text)
