"""infer into a folder: many scans, one warm session, a table of what came out."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from medattn_edge.errors import UsageError, quoted

from . import console
from .device_text import device_text
from .released import Opened

if TYPE_CHECKING:
    from medattn_edge.cohort import (
        CaseList,
        CohortOutcome,
        CohortSettings,
        Estimate,
        Failure,
        PoolSettings,
        ScanChoices,
    )
    from medattn_edge.io.dicomweb.address import Archive

WorkersOption = Annotated[
    int,
    typer.Option(
        "--workers",
        metavar="N",
        min=1,
        help="Of many scans: processes that segment, each with a session. They divide the cores; --threads is of each.",
    ),
]
EngineOption = Annotated[
    Literal["local", "ray"],
    typer.Option(
        "--engine",
        help="Of many scans: what starts the workers: local, or ray, for the hosts of a cluster (extra 'ray').",
    ),
]
AddressOption = Annotated[
    str,
    typer.Option(
        "--address",
        metavar="HOST:PORT|auto",
        help="With --engine ray: of the cluster that this host is a node of; all nodes need the same paths and this "
        "version. Without it Ray runs on this host alone, bound to 127.0.0.1.",
    ),
]
CaseTimeoutOption = Annotated[
    float | None,
    typer.Option("--case-timeout", metavar="S", help="Seconds until a worker that hangs at a scan is ended; 3600."),
]
ParquetOption = Annotated[
    bool,
    typer.Option(
        "--parquet", help="Of many scans: what came of each as OUT/parts/part-00000.parquet too (extra 'parquet')."
    ),
]
EstimateOption = Annotated[
    int,
    typer.Option(
        "--estimate", metavar="N", min=0, help="Of many scans: also say what N like those in the folder would take."
    ),
]


def pool_of(
    workers: int, case_timeout_s: float | None, engine: Literal["local", "ray"] = "local", address: str = ""
) -> PoolSettings:
    """Who does the work.

    Raises:
        UsageError: for options that make no sense together.
    """
    from medattn_edge.cohort import PoolSettings

    pool = PoolSettings(workers=workers, engine=engine, address=address)
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


def is_cohort(output: str, scans: Sequence[Path], options: Mapping[str, bool]) -> bool:
    """Whether results go into a folder.

    Args:
        output: what -o says.
        scans: the arguments.
        options: those that only a folder has -> whether each was given.

    Raises:
        UsageError: for a list or a pattern with a file to write to, and for options of a cohort without a folder.
    """
    from medattn_edge.cohort import is_case_source

    if not output:
        raise UsageError("-o without a name", expected="a file or a folder to write to", hint="-o labels.nii.gz")
    if output.endswith(("/", os.sep)) or Path(output).is_dir():
        return True
    several = [scan for scan in scans if not scan.is_dir() and is_case_source(scan)]
    given = [option for option, present in options.items() if present]
    if several or given:
        what = str(several[0]) if several else given[0]
        raise UsageError(
            f"{what} with the one file {output}",
            expected="a folder to write to, which ends in /",
            hint=f"-o {quoted(Path(output).stem.split('.')[0] or 'results')}/",
        )
    if "." not in Path(output).name and any(scan.is_dir() for scan in scans):
        raise UsageError(
            f"-o {output}, which is not a directory and has no suffix",
            expected="a folder to write to, which ends in /, or for a single scan a file such as labels.nii.gz",
            hint=f"-o {quoted(output)}/",
        )
    return False


def run_cohort(
    models: Opened,
    scans: Sequence[Path],
    output: str,
    settings: CohortSettings,
    choices: ScanChoices,
    listed: Callable[[], CaseList] | None = None,
    target: Archive | None = None,
) -> CohortOutcome:
    """Segment every case below a bar; failures are told as they come.

    listed: gives the cases of an archive. target: where the DICOM results go too.
    """
    from medattn_edge.cohort import find_cases, segment_cohort

    console.resume_hint = _resuming()
    folder = Path(output)
    with console.cases() as progress:
        cases = find_cases(_sources(scans), choices, apart_from=folder) if listed is None else listed()
        outcome = segment_cohort(
            models.files[0],
            cases,
            folder,
            settings=settings,
            progress=progress,
            failed=_tell_failure,
            target=target,
        )
    console.resume_hint = ""
    return outcome


def estimated(outcome: CohortOutcome, studies: int) -> Estimate | None:
    """What so many studies would take, as the records in the folder say; None of none. Raises as `estimate` does."""
    from medattn_edge.cohort import estimate
    from medattn_edge.host.cores import usable_cores

    return estimate(outcome.folder, studies, outcome.artifact_sha256, usable_cores()) if studies else None


def named_later(settings: CohortSettings, given: dict[str, Path | None]) -> CohortSettings:
    """The settings with patterns for the further outputs that were asked for."""
    return replace(settings, **{name: str(path) for name, path in given.items() if path is not None})


def finish(document: dict[str, object], outcome: CohortOutcome, estimate: Estimate | None, json: bool) -> None:
    """Print the outcome; exit code 1 when a case failed."""
    if json:
        console.print_json({**document, **({} if estimate is None else {"estimate": estimate.to_json()})})
    else:
        _tell(outcome)
        if estimate is not None:
            tell_estimate(estimate)
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
    console.say(f"computed on {device_text(outcome.session)}")
    console.say(f"results: {outcome.folder}; volumes.csv, failures.csv, left_out.csv and a record (.json) of each case")
    if outcome.sent_to:
        written = len(outcome.done) + len(outcome.skipped)
        console.say(f"in the archive {outcome.sent_to}: the DICOM results of {len(outcome.sent)} of {written} cases")
    if outcome.failures:
        console.say(f"next: look at {quoted(outcome.folder / 'failures.csv')}, then {_resuming()}")


def tell_estimate(estimate: Estimate) -> None:
    """Print what so many studies would take, each figure with the numbers that it is made of."""
    from medattn_edge.cohort.estimation import FORMULAS

    one, cpu = estimate, estimate.cpu_seconds
    console.say(f"estimate for {one.studies:,} studies like the {one.cases} measured cases of the folder")
    if one.not_counted:
        console.say(f"  not counted: {one.not_counted} records without figures, or of another artifact")
    error = cpu.standard_error_percent
    known = "a single case" if error is None else f"mean, standard error {error:.1f} %"
    console.say(f"  measured: {cpu.mean:.3g} CPU seconds of a case ({known}; largest {cpu.max:.3g}),")
    console.say(f"    {one.scan_bytes.mean / 1e6:,.3g} MB read, {one.written_bytes.mean / 1e6:,.3g} MB written")
    console.say(
        f"  assumed: they were measured on hosts like those of the archive; cores compute {one.busy_share:.0%} of the "
        "time; a network has its whole rate"
    )
    console.say(f"  core-hours: {one.core_hours:,.1f}; {one.days:,.1f} days on {one.cores} core(s), as this host has")
    for name, days in one.network_days.items():
        cores = one.fed_cores[name]
        read = f"{one.terabytes_read:,.3g} TB at {name}"
        console.say(f"  network: {days:,.2f} days for {read}, which feeds {cores:,.1f} cores")
    console.say(f"  written: {one.terabytes_written:,.3g} TB")
    for name, formula in FORMULAS.items():
        console.say(f"  {name.replace('_', ' ')} = {formula}")
