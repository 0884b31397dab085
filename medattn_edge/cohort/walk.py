"""What lies below a folder: DICOM files, files of other formats, and what is passed over."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from medattn_edge.errors import UsageError, quoted
from medattn_edge.io import format_of
from medattn_edge.io.dicom.files import SUFFIXES, is_dicom, listing

_SEGMENTATION: Final = ".seg.nrrd"


@dataclass
class Walked:
    """The files below folders.

    Attributes:
        files: of formats that are not DICOM, sorted in each folder.
        dicom: what is or claims to be DICOM.
        passed: what was passed over -> how often.
    """

    files: list[Path] = field(default_factory=list)
    dicom: list[Path] = field(default_factory=list)
    passed: Counter[str] = field(default_factory=Counter)

    def add(self, other: Walked) -> None:
        """Take what another one has."""
        self.files += other.files
        self.dicom += other.dicom
        self.passed += other.passed

    def notes(self) -> tuple[str, ...]:
        """What was passed over, for people."""
        return tuple(f"passed over: {count} {what}" for what, count in sorted(self.passed.items()))


def walk(path: Path, apart_from: Path | None = None) -> Walked:
    """Every file below a folder, or the file itself; only the starts of files are read.

    Args:
        path: of the folder.
        apart_from: a folder that is not looked into.

    Raises:
        UsageError: for a path in the folder that is not looked into.
        RefusedSeries: for more DICOM files than a folder may have.
    """
    found = Walked()
    away = None if apart_from is None else apart_from.resolve()
    if _is_below(path, away):
        raise UsageError(
            f"{path} lies in the folder of the results, {apart_from}",
            expected="results in a folder of their own, which would be taken for scans otherwise",
            hint=f"-o {quoted(path.resolve().parent / 'results')}/",
        )
    if not path.is_dir():
        _sort(path, found)
        return found
    listed = listing(path)
    found.dicom += [file for file in listed.files if not _is_below(file, away)]
    found.passed.update(_counted(listed.notes))
    known = set(listed.files)
    for folder, folders, names in os.walk(path):
        place = Path(folder)
        links = [name for name in folders if (place / name).is_symlink()]
        found.passed["folders behind a symbolic link"] += len(links)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and not _is_below(place / name, away))
        for file in sorted(place / name for name in names):
            if file not in known and file.suffix.lower() not in SUFFIXES:
                _sort(file, found)
    found.passed = +found.passed
    return found


def case_name(path: Path) -> str:
    """A file's name without the suffix of its format; of a folder its name."""
    name = path.resolve().name
    try:
        form = format_of(Path(name))
    except UsageError:
        return Path(name).stem or name
    fitting = max((suffix for suffix in form.suffixes if name.lower().endswith(suffix)), key=len)
    return name[: -len(fitting)]


def _sort(file: Path, found: Walked) -> None:
    """A file to what it is."""
    name = file.name.lower()
    if file.name.startswith("."):
        found.passed["hidden files"] += 1
    elif name.endswith(_SEGMENTATION):
        found.passed[f"segmentations ({_SEGMENTATION})"] += 1
    elif not file.is_file():
        found.passed["names that lead to no file"] += 1
    elif file.suffix.lower() in SUFFIXES or is_dicom(file):
        found.dicom.append(file)
    elif _is_known(file):
        found.files.append(file)
    else:
        found.passed["files of other kinds"] += 1


def _is_known(file: Path) -> bool:
    try:
        format_of(file)
    except UsageError:
        return False
    return True


def _is_below(path: Path, away: Path | None) -> bool:
    return away is not None and path.resolve().is_relative_to(away)


def _counted(notes: tuple[str, ...]) -> Counter[str]:
    """Notes of `listing` as counts: `3 empty files left out`."""
    counts: Counter[str] = Counter()
    for note in notes:
        number, _, what = note.partition(" ")
        counts[what.removesuffix(" left out")] += int(number)
    return counts
