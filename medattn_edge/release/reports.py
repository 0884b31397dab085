"""The evidence report in a release: a page and a document that belong together, of the very artifacts beside them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from medattn_edge.artifact import Artifact
from medattn_edge.errors import AgreementError, InputError, IntegrityError, UsageError, quoted
from medattn_edge.installation import upgrade_line
from medattn_edge.nearby import missing
from medattn_edge.release.manifest import REPORT_DOCUMENT, REPORT_PAGE

REPORT_KIND: Final = "medattn-edge evidence report"
REPORT_SCHEMA: Final = 1
_MAKE: Final = "medattn-edge report CHECKPOINT ARTIFACT SCAN -o report.html"


def report_files(paths: Sequence[Path], artifacts: Sequence[Artifact]) -> dict[str, Path]:
    """Name in the release -> file, of a report that speaks of the artifacts.

    Args:
        paths: a folder with report.html and report.json, or the two files under any name; none for no report.
        artifacts: those of the release.

    Raises:
        UsageError: for other than one page and one document.
        InputError: a file is missing, or is no report.
        IntegrityError: the page is of another document, the report is of other artifacts or of a newer schema.
        AgreementError: the report's verdict is not pass.
    """
    if not paths:
        return {}
    page, document = _pair(paths)
    values = _read(document)
    if hashlib.sha256(document.read_bytes()).hexdigest().encode() not in page.read_bytes():
        raise IntegrityError(
            f"{page.name} was not written with {document.name}: it does not name its SHA-256",
            expected="the two files of one report",
            hint=_MAKE,
        )
    _check_artifacts(document, values, artifacts)
    if values.get("verdict") != "pass":
        raise AgreementError(
            f"the verdict of {document.name} is {values.get('verdict')}",
            expected="pass: a release is signed for",
            hint="make artifacts that hold what was asked; medattn-edge calibrate --help",
        )
    return {REPORT_PAGE: page, REPORT_DOCUMENT: document}


def _pair(paths: Sequence[Path]) -> tuple[Path, Path]:
    found = [Path(path) for path in paths]
    if len(found) == 1 and found[0].is_dir():
        found = [found[0] / REPORT_PAGE, found[0] / REPORT_DOCUMENT]
    pages = [path for path in found if path.suffix.lower() == ".html"]
    documents = [path for path in found if path.suffix.lower() == ".json"]
    if len(pages) != 1 or len(documents) != 1 or len(found) != 2:
        raise UsageError(
            f"the report {', '.join(path.name for path in found)}",
            expected=f"a folder with {REPORT_PAGE} and {REPORT_DOCUMENT}, or the two files",
            hint="--report report.html --report report.json",
        )
    for path in found:
        if not path.is_file():
            raise missing(path, "a file of a report", otherwise=_MAKE)
    return pages[0], documents[0]


def _read(path: Path) -> Mapping[str, Any]:
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read: {error}", expected="the document of a report", hint=_MAKE) from error
    if not isinstance(values, dict) or values.get("kind") != REPORT_KIND or type(values.get("schema")) is not int:
        raise InputError(f"{path} is no report", expected="what `medattn-edge report` wrote", hint=_MAKE)
    if values["schema"] > REPORT_SCHEMA:
        raise IntegrityError(
            f"a report of schema {values['schema']}",
            expected=f"schema {REPORT_SCHEMA} or older",
            hint=upgrade_line(),
        )
    return values


def _check_artifacts(document: Path, values: Mapping[str, Any], artifacts: Sequence[Artifact]) -> None:
    """Every artifact of the report is one of the release's: it may say less than all, and nothing of others."""
    there = {one.path.name: one.content_sha256 for one in artifacts}
    named = values.get("artifacts")
    told = named if isinstance(named, dict) else {}
    digests = {name: one.get("content_sha256") if isinstance(one, dict) else None for name, one in told.items()}
    others = [name for name, digest in digests.items() if digest is None or there.get(name) != digest]
    if others or not digests:
        raise IntegrityError(
            f"{document.name} speaks of {', '.join(others) or 'no artifact'}, "
            f"which {'is none' if len(others) < 2 else 'are none'} of {', '.join(map(quoted, sorted(there)))}",
            expected="a report of the artifacts of this release",
            hint=_MAKE,
        )
