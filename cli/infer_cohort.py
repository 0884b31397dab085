"""infer into a folder: many scans, one warm session, a table of what came out."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from medattn_edge.errors import UsageError, quoted

from . import console
from .device_text import device_text
from .released import Opened

if TYPE_CHECKING:
    from medattn_edge.cohort import CaseList, CohortOutcome, CohortSettings, Failure, ScanChoices


def is_cohort(output: str, scans: Sequence[Path], name: str, resume: bool) -> bool:
    """Whether results go into a folder.

    Raises:
        UsageError: for a list or a pattern with a file to write to, and for options of a cohort without a folder.
    """
    from medattn_edge.cohort import is_case_source

    if not output:
        raise UsageError("-o without a name", expected="a file or a folder to write to", hint="-o labels.nii.gz")
    if output.endswith(("/", os.sep)) or Path(output).is_dir():
        return True
    several = [scan for scan in scans if not scan.is_dir() and is_case_source(scan)]
    if several or name or resume:
        what = str(several[0]) if several else "--name" if name else "--resume"
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
) -> CohortOutcome:
    """Segment every case below a bar; failures are told as they come. listed: gives the cases of an archive."""
    from medattn_edge.cohort import find_cases, segment_cohort

    console.resume_hint = _resuming()
    folder = Path(output)
    with console.cases() as progress:
        cases = find_cases(_sources(scans), choices, apart_from=folder) if listed is None else listed()
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
    console.say(f"computed on {device_text(outcome.session)}")
    console.say(f"results: {outcome.folder}; volumes.csv, failures.csv, left_out.csv and a record (.json) of each case")
    if outcome.failures:
        console.say(f"next: look at {quoted(outcome.folder / 'failures.csv')}, then {_resuming()}")
