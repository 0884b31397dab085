"""What an earlier run left: whether this one may go on in its folder, and what its records say of each case."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medattn_edge.cohort.case import ScanChoices
from medattn_edge.cohort.fingerprint import Opened, settings_of
from medattn_edge.cohort.naming import Job
from medattn_edge.cohort.records import read_record
from medattn_edge.cohort.settings import CohortSettings
from medattn_edge.cohort.tables import FAILURES, LEFT_OUT, VOLUMES, is_table
from medattn_edge.errors import MedattnError, UsageError


def labels_before(
    folder: Path,
    jobs: Sequence[Job],
    opened: Opened,
    artifact_sha256: str,
    settings: CohortSettings,
    choices: ScanChoices,
) -> dict[str, list[dict[str, Any]]]:
    """The labels in the records of an earlier run of the same artifact and settings; of its files nothing is read.

    Args:
        folder: of the results.
        jobs: every case with its names.
        opened: the session, or what a worker says of its one.
        artifact_sha256: of everything that the artifact computes with.
        settings: of this run; without `resume` nothing counts.
        choices: how scans are read.

    Returns:
        The name of each such case -> its labels.
    """
    labels: dict[str, list[dict[str, Any]]] = {}
    for job in jobs if settings.resume else ():
        record = read_record(folder / job.record)
        if record is None or job.case.error is not None:
            continue
        try:
            wanted = {
                "artifact_sha256": artifact_sha256,
                "settings": settings_of(opened, job, settings.segment, choices),
            }
        except MedattnError:
            continue
        if all(record["fingerprint"].get(name) == value for name, value in wanted.items()):
            labels[job.name] = record["labels"]
    return labels


def check_free(folder: Path, jobs: Sequence[Job], resume: bool) -> None:
    """Nothing of an earlier run is replaced unless it was meant, and nothing of somebody else ever.

    Args:
        folder: of the results.
        jobs: every case with its names.
        resume: whether this run may go on there.

    Raises:
        UsageError: for a scan of the cohort with the name of a result, a table of somebody else's, and results.
    """
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
