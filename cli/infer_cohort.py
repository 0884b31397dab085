"""infer into a folder: many scans, one warm session, a table of what came out."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medattn_edge.errors import UsageError, quoted

from . import console
from .released import Opened

if TYPE_CHECKING:
    from medattn_edge.cohort import CohortOutcome, CohortSettings, Failure, PoolSettings, ScanChoices

WorkersOption = Annotated[
    int,
    typer.Option(
        "--workers",
        metavar="N",
        min=1,
        help="Of many scans: processes that segment, each with a session. They divide the cores; --threads is of each.",
    ),
]
CaseTimeoutOption = Annotated[
    float | None,
    typer.Option("--case-timeout", metavar="S", help="Seconds until a worker that hangs at a scan is ended; 3600."),
]


def pool_of(workers: int, case_timeout_s: float | None) -> PoolSettings:
    """Who does the work.

    Raises:
        UsageError: for options that make no sense together.
    """
    from medattn_edge.cohort import PoolSettings

    pool = PoolSettings(workers=workers)
    if case_timeout_s is not None:
        if not pool.has_workers:
            raise UsageError(
                f"--case-timeout {case_timeout_s:g} without workers",
                expected="workers, which can be ended and started again",
                hint=f"--workers 2 --case-timeout {case_timeout_s:g}",
            )
        pool = replace(pool, case_timeout_s=case_timeout_s)
    pool.check()
    return pool


def is_cohort(output: str, scans: Sequence[Path], name: str, resume: bool, pool: PoolSettings) -> bool:
    """Whether results go into a folder.

    Raises:
        UsageError: for a list or a pattern with a file to write to, and for options of a cohort without a folder.
    """
    from medattn_edge.cohort import is_case_source

    if not output:
        raise UsageError("-o without a name", expected="a file or a folder to write to", hint="-o labels.nii.gz")
    if output.endswith("/") or Path(output).is_dir():
        return True
    several = [scan for scan in scans if not scan.is_dir() and is_case_source(scan)]
    given = {"--name": bool(name), "--resume": resume, f"--workers {pool.workers}": pool.has_workers}
    options = [option for option, present in given.items() if present]
    if several or options:
        what = str(several[0]) if several else options[0]
        raise UsageError(
            f"{what} with the one file {output}",
            expected="a folder to write to, which ends in /",
            hint=f"-o {quoted(Path(output).stem.split('.')[0] or 'results')}/",
        )
    return False


def run_cohort(
    models: Opened,
    scans: Sequence[Path],
    output: str,
    settings: CohortSettings,
    choices: ScanChoices,
) -> CohortOutcome:
    """Segment every case below a bar; failures are told as they come."""
    from medattn_edge.cohort import find_cases, segment_cohort

    console.resume_hint = _resuming()
    folder = Path(output)
    with console.cases() as progress:
        cases = find_cases(_sources(scans), choices, apart_from=folder)
        outcome = segment_cohort(
            models.files[0], cases, folder, settings=settings, progress=progress, failed=_tell_failure
        )
    console.resume_hint = ""
    return outcome


def named_later(settings: CohortSettings, given: dict[str, Path | None]) -> CohortSettings:
    """The settings with patterns for the further outputs that were asked for."""
    return replace(settings, **{name: str(path) for name, path in given.items() if path is not None})


def finish(document: object, outcome: CohortOutcome, json: bool) -> None:
    """Print the outcome; exit code 1 when a case failed."""
    if json:
        console.print_json(document)
    else:
        _tell(outcome)
    if not outcome.passed:
        raise typer.Exit(1)


def _sources(scans: Sequence[Path]) -> list[Path | str]:
    """The sources; scans with the names of channels are one scan together, as without a folder."""
    named = [scan for scan in scans if "=" in str(scan) and not scan.exists()]
    if not named or len(scans) == 1:
        return list(scans)
    if len(named) < len(scans):
        raise UsageError(
            f"{named[0]} among other scans",
            expected="either the channels of one scan, each with its name, or several scans",
            hint="NAME=SCAN+NAME=SCAN for the channels of each",
        )
    return ["+".join(str(scan) for scan in scans)]


def _resuming() -> str:
    """The command that was typed, going on."""
    words = [*sys.argv[1:], *([] if "--resume" in sys.argv else ["--resume"])]
    return shlex.join(["medattn-edge", *words])


def _tell_failure(failure: Failure) -> None:
    console.note(f"failed: {failure.case}: {failure.code}: {failure.message}")
    if failure.hint:
        console.note(f"  next: {failure.hint}")
    if failure.traceback:
        console.note(failure.traceback)


def _tell(outcome: CohortOutcome) -> None:
    for note in outcome.notes:
        console.say(f"note: {note}")
    for code in sorted({one.code for one in outcome.left_out}):
        count = sum(one.code == code for one in outcome.left_out)
        meaning = next(one.message for one in outcome.left_out if one.code == code)
        console.say(f"left out: {count} with {code}: {meaning}")
    console.say(
        f"{len(outcome.done)} done, {len(outcome.skipped)} done before, {len(outcome.failures)} failed, "
        f"{len(outcome.left_out)} left out, in {outcome.seconds:,.1f} s"
    )
    console.say(f"results: {outcome.folder}; volumes.csv, failures.csv, left_out.csv and a record (.json) of each case")
    if outcome.failures:
        console.say(f"next: look at {quoted(outcome.folder / 'failures.csv')}, then {_resuming()}")
