"""Case: one scan of a cohort, and what is said of one that cannot be segmented."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from medattn_edge.errors import InputError, MedattnError
from medattn_edge.io import Scan
from medattn_edge.io.dicom.reasons import RefusedSeries
from medattn_edge.io.dicomweb.errors import ArchiveDataError, ArchiveError
from medattn_edge.reasons import COHORT_REASONS

_NAMED: Final = ": "  # behind the name of what a note is about


class CaseError(InputError):
    """A case of a cohort that cannot be segmented for a reason of the cohort's own.

    Attributes:
        reason: a code of `medattn_edge.reasons.COHORT_REASONS`.
    """

    code = "case"

    def __init__(self, reason: str, detail: str, *, hint: str = "") -> None:
        known = COHORT_REASONS[reason]
        self.reason = reason
        super().__init__(f"{detail}: {known.meaning}", hint=hint or known.action)


@dataclass(frozen=True)
class ScanChoices:
    """What decides how the scans of a cohort are read.

    Attributes:
        pixel_spacing: mm (y, x) or (z, y, x) of pictures, which have none of their own.
        geometry: which form of a NIfTI header decides, sform or qform; "" for what the header prefers.
        volume: which of several volumes, from 1; 0 for the only one.
        resample_to_first: bring the channels of a scan to the first one's grid.
        dicom_paths: name the folders of DICOM series in tables, records and messages, although these may name people.
    """

    pixel_spacing: tuple[float, ...] = ()
    geometry: str = ""
    volume: int = 0
    resample_to_first: bool = False
    dicom_paths: bool = False


@dataclass(frozen=True, eq=False)
class Case:
    """One scan of a cohort.

    Attributes:
        name: its own: of a file its name without the suffix, of a DICOM series its hash, of a list what that says.
        scan: nothing of it is read yet; None where it could not even be found.
        shown: what tables call the scan: its path, and of DICOM the hash unless paths were asked for.
        folder: the name of the folder it lies in, "" where that must not be told.
        error: why it cannot be segmented, where that is known already.
        found: whether it was found in a folder, so that a series of another modality is passed over and does not fail.
        hidden: texts that stand for `shown` in messages: paths that may name people.
    """

    name: str
    scan: Scan | None
    shown: str
    folder: str = ""
    error: MedattnError | None = None
    found: bool = False
    hidden: tuple[str, ...] = field(default=(), repr=False)

    def release(self) -> None:
        """What was retrieved for it goes; of files of one's own nothing does."""
        if self.scan is not None:
            self.scan.release()

    def without_paths(self, text: str) -> str:
        """A text with `shown` in the place of what is hidden, and of a folder that is there for a while only."""
        scan = self.scan
        passing = (str(scan.path),) if scan is not None and scan.shown != str(scan.path) else ()
        for path in (*passing, *self.hidden):
            text = text.replace(path, self.shown + (_NAMED if path.endswith(_NAMED) else ""))
        return text


@dataclass(frozen=True)
class Failure:
    """A case that was not segmented.

    Attributes:
        case: its name.
        scan: what tables call its scan.
        code: of `reasons.SERIES_REASONS`, `COHORT_REASONS` or `ARCHIVE_REASONS`, or the code of an error.
        message: what was found and what was expected.
        hint: what to do next.
        traceback: of a failure that nobody foresaw; "" for any other.
    """

    case: str
    scan: str
    code: str
    message: str
    hint: str
    traceback: str = ""

    @classmethod
    def of(cls, case: Case, error: MedattnError) -> Failure:
        """What an error says of a case, without what is hidden."""
        known = RefusedSeries | CaseError | ArchiveError | ArchiveDataError
        code = error.reason if isinstance(error, known) else error.code
        return cls(case.name, case.shown, code, case.without_paths(error.message), case.without_paths(error.hint))


@dataclass(frozen=True, eq=False)
class CaseList:
    """The cases of a cohort.

    Attributes:
        cases: in the order they are done.
        left_out: series that are no scans, with the reason of each.
        notes: what else was passed over, for people.
        choices: how the scans are read.
    """

    cases: tuple[Case, ...]
    left_out: tuple[Failure, ...] = ()
    notes: tuple[str, ...] = ()
    choices: ScanChoices = ScanChoices()

    def with_numbers(self) -> CaseList:
        """The same with series that have no name numbered, so that each has a name of its own."""
        number, cases = 0, []
        for case in self.cases:
            number += not case.name
            cases.append(case if case.name else replace(case, name=f"unnamed_{number}"))
        return replace(self, cases=tuple(cases))


def hidden_paths(files: Sequence[Path]) -> tuple[str, ...]:
    """Every text by which files and their folders are named, the longest first."""
    places = {path for file in files for path in (file, file.resolve(), file.parent, file.parent.resolve())}
    texts = {str(path) for path in places} | {path.name + _NAMED for path in places if path.name}
    return tuple(sorted(texts - {".", "/"}, key=lambda text: (-len(text), text)))
