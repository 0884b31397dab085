"""Segment a cohort: in this process one case after the other, or by workers, each with a session of its own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from medattn_edge.cohort.case import Case, CaseList, Failure
from medattn_edge.cohort.case_json import case_to_json, choices_to_json, settings_to_json
from medattn_edge.cohort.cases import find_cases
from medattn_edge.cohort.distribute import CohortProgress, Distributor
from medattn_edge.cohort.fingerprint import Opened, artifact_sha256
from medattn_edge.cohort.folder import CohortFolder
from medattn_edge.cohort.local_workers import LocalWorkers
from medattn_edge.cohort.naming import Job, jobs_of
from medattn_edge.cohort.one_case import CaseRunner
from medattn_edge.cohort.opened import check_jobs, with_algorithm
from medattn_edge.cohort.outcome import CohortOutcome
from medattn_edge.cohort.parts import Parts, remove_parts
from medattn_edge.cohort.parts import check_installed as check_parquet
from medattn_edge.cohort.ray_session import check_address, check_installed
from medattn_edge.cohort.ray_workers import RayWorkers
from medattn_edge.cohort.resuming import check_free, labels_before
from medattn_edge.cohort.sending import check_target, sending_to
from medattn_edge.cohort.settings import CohortSettings
from medattn_edge.cohort.tables import VOLUMES
from medattn_edge.cohort.tally import Taker, Tally
from medattn_edge.cohort.workers import Workers
from medattn_edge.errors import UsageError
from medattn_edge.host.cores import usable_cores
from medattn_edge.inference.handover import QUEUE_DEPTH, prefetch
from medattn_edge.io.dicomweb.address import Archive
from medattn_edge.io.dicomweb.scan import ArchivedScan

STANDARD: Final = CohortSettings()
_CACHE: Final = "MEDATTN_EDGE_MODEL_CACHE"


def segment_cohort(
    artifact: Path | str,
    cases: CaseList | Path | str | Sequence[Path | str],
    folder: Path | str,
    *,
    settings: CohortSettings = STANDARD,
    progress: CohortProgress | None = None,
    failed: Callable[[Failure], None] | None = None,
    target: Archive | None = None,
) -> CohortOutcome:
    """Segment many scans into a folder, with sessions that are opened once.

    Every case's files appear together or not at all, with a record of it, NAME.json: the SHA-256 of scan and artifact,
    all settings, the measures of every label and the seconds of each stage (`read`, `prepare`, `network`, `restore`,
    `measure`, `write`). A case that fails is told and the next one done. `volumes.csv`, `failures.csv` and
    `left_out.csv` are written now and then, and whenever this returns or raises; so is `parts/part-*.parquet`, where it
    is asked for (`settings.parquet`), a part being whole once something has come of each of its thousand cases.

    In this process, the usual way, a thread reads the next scan while the network runs: two are in memory at a time.
    Each of several workers (`settings.pool`) is a process that has one scan in memory and does one case at a time, of
    this program or of Ray. On a Ray cluster every node needs this version and finds artifact, scans and folder under
    the same paths, on a disk that they share and that has locks. A case whose worker crashes or hangs is tried again by
    another one, three times in all; then it has failed.

    Args:
        artifact: an artifact or a checkpoint.
        cases: of `find_cases`, or what that takes.
        folder: for the results; it is made where its own folder is there.
        settings: names, what to write, how to segment, who does it, and whether to go on where another run was ended.
        progress: called with the name of a case, the cases done (with the part of it that is) and their number.
        failed: called with each failure.
        target: where the DICOM results are stored too, each case's once they are on the disk. What it does not take is
            sent again in the end; a case with something that is not stored then has failed, its files stay, and with
            `resume` only these are sent.

    Raises:
        ArchiveError: the target does not answer; nothing was done then.
        UsageError: for settings or names that make no sense, two cases of one name, results of an earlier run without
            `resume`, another run in the same folder; nothing was done then.
        ScanError: when there is no case.
        OutputError: when the folder cannot be written; what was done stays, and `resume` goes on.
        HostError: a worker of a run that was killed does not end.
        MissingDependency, IntegrityError, BackendError: as `open_session` does, for what the network needs, and when
            Ray does not start, or ends.
    """
    place = Path(folder)
    if not isinstance(cases, CaseList):
        cases = find_cases([cases] if isinstance(cases, Path | str) else cases, apart_from=place)
    settings.segment.check()
    settings.pool.check()
    run = _Run(Path(artifact), cases, jobs_of(cases.cases, settings), settings, progress, failed, target)
    if target is not None:
        check_target(target, run.jobs)
    if settings.pool.address:
        _check_secrets(run.jobs)
    if settings.pool.engine == "ray":
        check_address(settings.pool.address)
        check_installed()
    if settings.parquet:
        check_parquet()
    with CohortFolder(place).opened() as opened:
        check_free(place, run.jobs, settings.resume)
        outcome = run.by_workers(opened) if settings.pool.has_workers else run.here(opened)
    return outcome if target is None else replace(outcome, sent_to=target.url)


@dataclass(frozen=True, eq=False)
class _Run:
    """What is done, and who wants to know."""

    artifact: Path
    cases: CaseList
    jobs: Sequence[Job]
    settings: CohortSettings
    progress: CohortProgress | None
    failed: Callable[[Failure], None] | None
    target: Archive | None

    def here(self, folder: CohortFolder) -> CohortOutcome:
        """In this process."""
        start, settings = time.perf_counter(), self.settings
        with settings.opening.open(self.artifact) as session:
            check_jobs(session.spec, self.jobs)
            opened = with_algorithm(self.artifact, session, self.jobs[0], settings)
            content = artifact_sha256(self.artifact)
            runner = CaseRunner(folder, opened, content, settings, self.cases.choices)
            with self._tally(folder, session, content) as tally:
                try:
                    with sending_to(self.target, folder, tally) as taker:
                        self._one_by_one(runner, taker)
                finally:
                    for job in self.jobs:
                        job.case.release()
            notes = [*_without_components(), *_memory(tally)]
            return tally.outcome(dict(session.facts), time.perf_counter() - start, notes)

    def by_workers(self, folder: CohortFolder) -> CohortOutcome:
        """By workers; this process opens no session."""
        first = next((job.case for job in self.jobs if job.case.scan is not None), None)
        if first is None:
            return self.here(folder)  # none can be read, which takes no worker to say
        start, pool = time.perf_counter(), self.settings.pool
        settings = replace(self.settings, opening=pool.opening(self.settings.opening))
        with closing(self._workers(folder, settings, first)) as workers:
            opened = workers.opened()
            check_jobs(opened.spec, self.jobs)
            with (
                self._tally(folder, opened, opened.artifact_sha256) as tally,
                sending_to(self.target, folder, tally) as taker,
            ):
                distributor = Distributor(workers, folder, taker, self.progress)
                distributor.all(self.jobs)
        notes = [*_without_components(), *_of_workers(settings, workers, distributor.lost)]
        seconds, lost = time.perf_counter() - start, distributor.lost
        return tally.outcome(dict(opened.facts), seconds, notes, (workers.count, lost))

    def _workers(self, folder: CohortFolder, settings: CohortSettings, first: Case) -> Workers:
        request = {
            "artifact": str(self.artifact),
            "folder": str(folder.path),
            "token": folder.token,
            "settings": settings_to_json(settings),
            "choices": choices_to_json(self.cases.choices),
            "cwd": os.getcwd(),  # noqa: PTH109 - as a text for another process
            "first": case_to_json(first),
        }
        cached = settings.opening.cache is not None or bool(os.environ.get(_CACHE))
        pool = settings.pool
        if pool.engine == "ray":
            return RayWorkers(request, pool, settings.opening, one_first=cached)
        return LocalWorkers(request, pool.workers, pool.case_timeout_s, one_first=cached)

    def _tally(self, folder: CohortFolder, opened: Opened, content: str) -> Tally:
        labels = labels_before(folder.path, self.jobs, opened, content, self.settings, self.cases.choices)
        if not self.settings.parquet:
            remove_parts(folder.path)
        parts = Parts(folder, self.jobs) if self.settings.parquet else None
        return Tally(folder, self.jobs, self.cases, labels, content, self.failed, parts)

    def _one_by_one(self, runner: CaseRunner, taker: Taker) -> None:
        count = len(self.jobs)
        with closing(prefetch(runner.taken(self.jobs))) as items:
            for number, item in enumerate(items):
                job = item.job

                def part(done: float, job: Job = job, number: int = number) -> None:
                    if self.progress is not None:
                        self.progress(job.name, number + done, count)

                part(0)
                result = runner.result(item, lambda done, total, part=part: part(done / max(1, total)))  # type: ignore[misc]
                del item  # its voxels, before the next one is waited for
                taker.take(job, result)
                part(1)


def _check_secrets(jobs: Sequence[Job]) -> None:
    """Ray sends to the workers of a cluster in the clear what they need."""
    scans = [job.case.scan for job in jobs]
    secret = (one for one in scans if isinstance(one, ArchivedScan) and one.archive.credentials is not None)
    if (first := next(secret, None)) is not None:
        raise UsageError(
            f"credentials of {first.archive.url} for the workers of a cluster, which get them in the clear",
            expected="workers on this host, or an archive that asks for none",
            hint="--workers N without --address",
        )


def _without_components() -> list[str]:
    return [] if find_spec("scipy") else [f"no components in {VOLUMES}: they need scipy, of the extra 'cleanup'"]


def _memory(tally: Tally) -> list[str]:
    return [
        f"the next scan was read while the network ran: {QUEUE_DEPTH} scans in memory at most, the largest of "
        f"them {tally.largest_bytes / 1e6:.3g} MB"
    ]


def _of_workers(settings: CohortSettings, workers: Workers, lost: int) -> list[str]:
    threads, count, cores = settings.opening.threads, workers.count, usable_cores()
    if settings.pool.address:
        cores = count * threads  # of the cluster, which had them
    notes = [f"{count} workers, each with a session of {threads} thread(s) and one scan in memory"]
    if workers.peak_rss_mb:
        notes[0] += f"; the largest held {workers.peak_rss_mb:,.0f} MB"
    if count * threads > cores:
        notes.append(f"{count} workers with {threads} thread(s) each share the {cores} core(s) of this host")
    if workers.given_up:
        notes.append(f"{workers.given_up} worker(s) found no place on Ray again, and the others did their share")
    if lost:
        notes.append(f"workers were lost {lost} time(s), and others took their place: what they had was tried again")
    return notes


__all__ = ["CohortOutcome", "CohortProgress", "segment_cohort"]
