"""What a folder holds: files of formats that are read by name, and DICOM series, counted once more by pydicom."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from medattn_edge.io import format_of, formats
from medattn_edge.io.dicom.volume import Series, search


@dataclass(frozen=True)
class Candidate:
    """What may be one scan.

    Attributes:
        name: where it is below the folder, and which series of it.
        format: of the product's formats.
        path: the file, or the series' first file.
        files: of the series, as the product groups them.
        every_file: of the same SeriesInstanceUID, as pydicom alone finds them; the order has no meaning.
        reason: why the product refuses the series already, "" when it does not.
        detail: more of that.
    """

    name: str
    format: str
    path: Path
    files: tuple[Path, ...] = ()
    every_file: tuple[Path, ...] = field(default=(), repr=False)
    reason: str = ""
    detail: str = ""


def find(root: Path) -> Iterator[Candidate]:
    """Every candidate below a folder."""
    suffixes = [suffix for form in formats() if form.name != "dicom" for suffix in form.suffixes]
    files = sorted(Path(folder) / name for folder, _, names in os.walk(root) for name in names)
    for path in files:
        if path.name.lower().endswith(tuple(suffixes)):
            yield Candidate(str(path.relative_to(root)), format_of(path).name, path)
    result = search(root)
    by_uid = _images_by_series(files) if any(series.accepted for series in result.series) else {}
    for series in result.series:
        every = tuple(by_uid.get(series.series_instance_uid, ()))
        yield _candidate(root, series, every)
    if any(series.reason == "several_volumes" for series in result.series):
        for whole, first in zip(result.series, search(root, volume=1).series, strict=True):
            # Where the files say which volume they belong to, other readers can be given those of one.
            if whole.reason == "several_volumes" and first.accepted and set(first.files) < set(whole.files):
                yield replace(_candidate(root, first, first.files), name=f"{_name(root, whole)}, volume 1")


def _candidate(root: Path, series: Series, every: tuple[Path, ...]) -> Candidate:
    path = series.files[0] if series.files else root
    detail = series.detail if series.reason else ""
    return Candidate(_name(root, series), "dicom", path, series.files, every, series.reason or "", detail)


def _name(root: Path, series: Series) -> str:
    first = min(series.files, default=root)  # the order within a series is what is judged, and no name
    return f"{first.relative_to(root)} ({series.hash or 'no UID'}, {len(series.files)} files)"


def _images_by_series(files: list[Path]) -> dict[str, list[Path]]:
    """The files with pixels, by SeriesInstanceUID."""
    import pydicom

    found: dict[str, list[Path]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for path in files:
            try:
                head = pydicom.dcmread(path, specific_tags=["SeriesInstanceUID", "Rows"])
            except Exception:  # noqa: BLE001 - whatever is damaged is no second opinion
                continue
            if "Rows" in head:
                found.setdefault(str(head.get("SeriesInstanceUID", "")), []).append(path)
    return found
