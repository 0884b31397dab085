"""A list of scans: a CSV file with the columns `scan`, optionally `case`, and one for each further channel."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from medattn_edge.cohort.case import Case, ScanChoices, hidden_paths
from medattn_edge.cohort.walk import case_name
from medattn_edge.errors import MedattnError, ScanError, quoted
from medattn_edge.io import Scan
from medattn_edge.io.listed_channels import ListedChannels
from medattn_edge.nearby import missing

LIST_SUFFIX: Final = ".csv"
_SCAN, _CASE = "scan", "case"


def listed_cases(path: Path, choices: ScanChoices) -> list[Case]:
    """The cases of a list, in its order; a row whose scan is not there is a case that fails.

    Args:
        path: UTF-8, with commas or semicolons; relative paths in it start at its own folder.
        choices: how scans are read.

    Raises:
        ScanError: for a list that cannot be read, lacks the column `scan`, or has a row of another length.
    """
    return [_case(path.parent, row, number, choices) for number, row in _rows(path)]


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """(line, cells by column) of every row that is not empty."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, FileNotFoundError):
            raise missing(path, "a list of scans", ScanError) from error
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise _wrong(path, f"cannot be read: {reason}") from error
    head = text.partition("\n")[0]
    lines = csv.reader(text.splitlines(), delimiter=";" if ";" in head and "," not in head else ",", strict=True)
    rows: list[tuple[int, dict[str, str]]] = []
    try:
        columns = [name.strip() for name in next(lines, [])]
        if _SCAN not in columns or not all(columns) or len(set(columns)) < len(columns):
            raise _wrong(path, f"has the columns {', '.join(columns) or 'of an empty file'}")
        for cells in lines:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(columns):
                raise _wrong(path, f"has {len(cells)} cells in line {lines.line_num}, and {len(columns)} columns")
            rows.append((lines.line_num, dict(zip(columns, (cell.strip() for cell in cells), strict=True))))
    except csv.Error as error:
        raise _wrong(path, f"cannot be read in line {lines.line_num}: {error}") from error
    return rows


def _wrong(path: Path, what: str) -> ScanError:
    return ScanError(
        f"the list {path} {what}",
        expected="a CSV file with the column scan, optionally case, and one for each further channel of the network",
        hint=f"head -n 2 {quoted(path)}",
    )


def _case(root: Path, row: Mapping[str, str], line: int, choices: ScanChoices) -> Case:
    name, place = row.get(_CASE, ""), root / row[_SCAN]
    scan, error = None, None
    try:
        scan = _scan(root, row, line, choices)
        if not place.exists():
            raise missing(place, "a scan", ScanError, otherwise=f"look at line {line} of the list")
        series = scan.series
    except MedattnError as wrong:
        error, series = wrong, None
    dicom = scan is not None and scan.is_dicom
    if not dicom or choices.dicom_paths:
        own = series.hash if series is not None else case_name(place)
        return Case(name or own, scan, row[_SCAN], place.resolve().parent.name, error)
    shown = f"series {series.hash}" if series is not None else f"line {line} of the list"
    files = (place / "file", *(scan.files if scan is not None and series is not None else ()))
    own = series.hash if series is not None else f"line_{line}"
    return Case(name or own, scan, shown, "", error, hidden=hidden_paths(files))


def _scan(root: Path, row: Mapping[str, str], line: int, choices: ScanChoices) -> Scan:
    """The scan of a row, with its further channels."""
    further = {name: cell for name, cell in row.items() if name not in (_SCAN, _CASE)}
    if empty := [name for name in (_SCAN, *further) if not row[name]]:
        raise ScanError(
            f"line {line} of the list has nothing for {', '.join(empty)}",
            expected="a scan in every column",
            hint="fill the cell, or take the row out",
        )
    spacing = choices.pixel_spacing
    if not further:
        path = root / row[_SCAN]
        geometry = "" if path.is_dir() else choices.geometry
        return Scan(path, "", spacing, geometry=geometry, volume=choices.volume)
    others = {name: Scan(root / cell, "", spacing) for name, cell in further.items()}
    return ListedChannels(Scan(root / row[_SCAN], "", spacing), others, resample_to_first=choices.resample_to_first)
