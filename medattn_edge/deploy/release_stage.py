"""Release stage: which files a release has, and how it comes to its place: whole, once."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from medattn_edge.atomic import check_folder, sync
from medattn_edge.deploy.candidates import FP32, CandidatePlan
from medattn_edge.deploy.work_folder import StageOutcome, WorkFolder
from medattn_edge.errors import InputError, IntegrityError, UsageError, quoted
from medattn_edge.release import VerifiedRelease, verify

CANDIDATES: Final = "candidates.json"
OUT: Final = "out"  # folder of the release in its stage


def check_output(output: Path) -> None:
    """Raise UsageError when something is at the output that is not this deployment's own, OutputError without a folder.

    A release that was put in its place just before the work folder was to be removed is its own.
    """
    check_folder(output)
    if os.path.lexists(output) and not _is_own(output):
        raise UsageError(
            f"{output} exists",
            expected="a new folder or .zip: a release is never changed",
            hint=f"-o {quoted(output.with_name(output.stem + '-2' + output.suffix))}",
        )


def _is_own(output: Path) -> bool:
    record = WorkFolder.beside(output).path / "release" / "stage.json"
    try:
        made = json.loads(record.read_text(encoding="utf-8"))["value"]["manifest_sha256"]
        return bool(verify(output).manifest_sha256 == made)
    except (OSError, ValueError, LookupError, TypeError, InputError, IntegrityError):
        return False


def with_ancestors(chosen: CandidatePlan, made: Sequence[CandidatePlan]) -> list[CandidatePlan]:
    """The chosen file first, then what it was made from, and the FP32 graph, which any host can hold it to."""
    by_name = {one.name: one for one in made}
    found, one = [chosen], chosen
    while one.parent:
        one = by_name[one.parent]
        found.append(one)
    return found if by_name[FP32] in found else [*found, by_name[FP32]]


def write_documents(folder: Path, texts: Mapping[str, str]) -> list[Path]:
    """Everything in a release beside artifacts: what is to be in it is written and named here.

    Args:
        folder: of the stage.
        texts: name -> content.
    """
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return [folder / name for name in texts]


def put_in_place(made: Path, output: Path) -> None:
    """Move a folder or a file to a name that is free, durably."""
    made.rename(output)
    for folder in (made.parent, output.absolute().parent):
        sync(folder)


def put(stage: StageOutcome, output: Path) -> VerifiedRelease:
    """The release in its place; it is there already when a run was killed right after this.

    Raises UsageError when another one appeared there meanwhile.
    """
    if not os.path.lexists(output):
        put_in_place(stage.folder / OUT / output.name, output)
    release = verify(output)
    if release.manifest_sha256 != stage.value["manifest_sha256"]:
        raise UsageError(
            f"{output} appeared meanwhile, and is another release",
            expected="nothing at this place",
            hint=f"mv {quoted(output)} ANOTHER_NAME, then the same command again",
        )
    return release
