"""DICOM files to cases: every series that is a scan, without anything that names a patient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from medattn_edge.cohort.case import Case, CaseError, Failure, ScanChoices, hidden_paths
from medattn_edge.errors import MedattnError, MissingDependency
from medattn_edge.io import Scan
from medattn_edge.io.dicom.reasons import RefusedSeries
from medattn_edge.reasons import BROKEN_NEIGHBOUR, NO_SCAN, SERIES_REASONS


@dataclass(frozen=True, eq=False)
class DicomFound:
    """What DICOM files hold: cases, series that are no scans, and notes for people."""

    cases: tuple[Case, ...] = ()
    left_out: tuple[Failure, ...] = ()
    notes: tuple[str, ...] = ()


def dicom_cases(files: Sequence[Path], choices: ScanChoices, whole: Scan | None = None) -> DicomFound:
    """The series of DICOM files, by their headers.

    A series that no 3-D scan can be made of because it is none is left out; one that is damaged is a case that fails,
    and so is one that lies beside a file without a series, which may be its own.

    Args:
        files: wherever they lie.
        choices: how they are read.
        whole: the scan that a single path is, where the user named it; a DICOMDIR stands for the files that it lists.

    Raises:
        MissingDependency: without pydicom.
    """
    if find_spec("pydicom") is None:
        raise MissingDependency.of_extra("pydicom", "dicom")
    from medattn_edge.io.dicom.series import Series, search, series_of

    try:
        found = series_of(files, choices.volume) if whole is None else search(whole.path, choices.volume).series
    except RefusedSeries as refusal:  # a DICOMDIR that cannot be parsed
        return DicomFound((_named(Case("", whole, "", error=refusal), tuple(files), choices),))
    broken = {file.parent for one in found if not one.series_instance_uid for file in one.files}
    cases, left_out = list[Case](), list[Failure]()

    def case_of(one: Series) -> Case:
        name = one.hash + (f"_v{one.volume}" if one.volume else "") if one.hash else ""
        error: MedattnError | None = None
        if one.reason is not None:
            error = RefusedSeries(one.reason, one.detail, hint=one.hint)
        elif any(file.parent in broken for file in one.files):
            error = CaseError(BROKEN_NEIGHBOUR, f"series {one.hash}")
        place = one.files[0].parent if one.files else Path()
        return _named(Case(name, Scan(place, one), "", error=error, found=whole is None), one.files, choices)

    for one in found:
        case = case_of(one)
        if one.reason in NO_SCAN:
            known = SERIES_REASONS[one.reason]
            left_out.append(Failure(case.name, case.shown, one.reason, f"{known.meaning} ({one.detail})", known.action))
        else:
            cases.append(case)
    return DicomFound(tuple(cases), tuple(left_out))


def _named(case: Case, files: tuple[Path, ...], choices: ScanChoices) -> Case:
    """The case with what tables call its scan."""
    folder = files[0].parent if files else Path()
    if choices.dicom_paths:
        shown = str(files[0] if len(files) == 1 else folder)
        return Case(case.name, case.scan, shown, folder.resolve().name, case.error, case.found)
    shown = f"series {case.name}" if case.name else "DICOM files without a series (--dicom-paths names them)"
    return Case(case.name, case.scan, shown, "", case.error, case.found, hidden_paths(files))
