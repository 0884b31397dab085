"""Which cases there are: in folders, behind a pattern of names, and in lists."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from medattn_edge.cohort.case import Case, CaseList, Failure, ScanChoices
from medattn_edge.cohort.dicom_cases import DicomFound, dicom_cases
from medattn_edge.cohort.listed import LIST_SUFFIX, listed_cases
from medattn_edge.cohort.walk import Walked, case_name, walk
from medattn_edge.errors import MedattnError, ScanError, quoted
from medattn_edge.io import ChannelScan, Scan, as_scan
from medattn_edge.io.scan import is_dicom_source
from medattn_edge.nearby import missing

STANDARD: Final = ScanChoices()


def is_case_source(path: Path | str) -> bool:
    """Whether it may mean several scans: a folder, a list, or a pattern of names that is no file itself."""
    place = Path(path)
    if place.exists():
        return place.is_dir() or place.suffix.lower() == LIST_SUFFIX
    if place.suffix.lower() == LIST_SUFFIX or any(mark in str(path) for mark in "*?"):
        return True
    # Brackets are as often part of a name as a pattern.
    return glob.has_magic(str(path)) and bool(glob.glob(str(path)))  # noqa: PTH207 - Path.glob takes no absolute pattern


def find_cases(
    sources: Sequence[Path | str], choices: ScanChoices = STANDARD, apart_from: Path | None = None
) -> CaseList:
    """The cases of folders, patterns, lists and scans; of DICOM files the headers are read, of others nothing.

    In a folder (with its folders) every file of a format that can be read is a case, and every DICOM series; what is no
    scan (reports, segmentations, scouts) is left out and listed, and a series that is damaged is a case with an error.
    Left out with a note are hidden files, 3D Slicer's segmentations (`.seg.nrrd`) and folders behind symbolic links. A
    pattern (`data/*/t1.nii.gz`, `**` for any folders) stands for the files and folders that it fits. A list is a CSV
    file with the columns `scan`, optionally `case`, and one for each further channel by its name; paths are taken from
    the list's own folder. Anything else is one scan, as `as_scan` takes it.

    Args:
        sources: of the cohort.
        choices: how scans are read.
        apart_from: a folder that is not looked into: where the results go.

    Raises:
        ScanError: for a source that is not there, a list that cannot be read, and when there is no case at all.
        UsageError: for choices that make no sense for a scan.
        MissingDependency: without pydicom, where there are DICOM files.
    """
    found = Walked()
    cases: list[Case] = []
    for source in sources:
        place = Path(source)
        if place.is_dir():
            found.add(walk(place, apart_from))
        elif not place.exists() and glob.has_magic(str(source)) and place.suffix.lower() != LIST_SUFFIX:
            _add_matching(str(source), found, apart_from)
        elif place.suffix.lower() == LIST_SUFFIX:
            cases += listed_cases(place, choices)
        else:
            cases.append(_one(source, choices))
    cases += [_of_file(path, choices) for path in dict.fromkeys(found.files)]
    of_dicom = dicom_cases(tuple(dict.fromkeys(found.dicom)), choices) if found.dicom else DicomFound()
    notes = [*found.notes(), *of_dicom.notes]
    if found.files:
        notes.append(
            f"{len(found.files)} files of known formats in folders or behind patterns were taken for scans, whatever "
            "is in them; a LIST.csv takes only what it names"
        )
    result = CaseList((*cases, *of_dicom.cases), of_dicom.left_out, tuple(notes), choices)
    if not result.cases:
        raise ScanError(
            f"no scan in {', '.join(map(str, sources))}" + _what_else(result),
            expected="scans of a known format, or DICOM series",
            hint=f"medattn-edge inspect {quoted(sources[0])}" if sources else "FOLDER, 'PATTERN' or LIST.csv",
        )
    return result.with_numbers()


def scans_of_cases(sources: Sequence[Path | str], choices: ScanChoices = STANDARD) -> tuple[tuple[Scan, ...], CaseList]:
    """The scans of `find_cases` for what judges all or none of them, and the list they are from.

    A folder with a single series that can be read is that scan, as `as_scan` takes it.

    Raises:
        MedattnError: the error of the first case that has one; and as `find_cases` does.
    """
    cases = find_cases(sources, choices)
    whole = Path(sources[0]) if len(sources) == 1 else None
    if whole is not None and whole.is_dir() and not any(isinstance(case.scan, ChannelScan) for case in cases.cases):
        of_dicom = all(case.scan is not None and case.scan.is_dicom for case in cases.cases)
        if of_dicom and sum(case.error is None for case in cases.cases) <= 1:
            return (as_scan(whole, geometry=choices.geometry, volume=choices.volume),), CaseList(
                cases.cases, choices=choices
            )
    return tuple(scan_of(case) for case in cases.cases), cases


def scan_of(case: Case) -> Scan:
    """A case's scan; raises its error where it has one."""
    if case.error is not None:
        raise case.error
    if case.scan is None:
        raise ScanError(f"{case.shown} is no scan", expected="a scan", hint="look at the list")
    return case.scan


def _add_matching(pattern: str, found: Walked, apart_from: Path | None) -> None:
    matching = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
    if not matching:
        raise ScanError(
            f"no file fits {pattern!r}", expected="a pattern that fits scans", hint=f"ls {quoted(Path(pattern).parent)}"
        )
    for name in matching:
        path = Path(name)
        found.add(walk(path, apart_from))


def _one(source: Path | str, choices: ScanChoices) -> Case:
    """One scan as it was given; several channels joined by `+` are one."""
    given = as_scan(
        source,
        "",
        choices.pixel_spacing,
        resample_to_first=choices.resample_to_first,
        geometry=choices.geometry,
        volume=choices.volume,
    )
    if absent := [path for path in given.paths if not path.exists()]:
        raise missing(absent[0], "a folder, a pattern that fits files, a list or a scan", ScanError)
    if len(given.paths) == 1 and is_dicom_source(given.path):
        found = dicom_cases((given.path,), choices, whole=given)
        if found.cases:
            return found.cases[0]
        return _refused(given, found.left_out)
    return Case(case_name(given.paths[0]), given, str(given.path), given.paths[0].resolve().parent.name)


def _refused(given: Scan, reasons: Sequence[Failure]) -> Case:
    """A file that was named itself, and is no scan: it fails, for nobody else says it."""
    error: MedattnError = ScanError("no DICOM series", expected="a scan", hint="medattn-edge inspect shows what it is")
    if reasons:
        error = ScanError(reasons[0].message, hint=reasons[0].hint)
    return Case("", given, str(given.path), error=error)


def _of_file(path: Path, choices: ScanChoices) -> Case:
    scan = Scan(path, "", choices.pixel_spacing, geometry=choices.geometry, volume=choices.volume)
    return Case(case_name(path), scan, str(path), path.resolve().parent.name, found=True)


def _what_else(result: CaseList) -> str:
    said = [f"{one.scan}: {one.message}" for one in result.left_out[:3]] + list(result.notes[:3])
    return f" ({'; '.join(said)})" if said else ""
