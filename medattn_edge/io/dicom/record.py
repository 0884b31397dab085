"""DICOM's record among the formats, apart from what reads it: whoever only lists the formats imports none of that."""

from __future__ import annotations

from pathlib import Path

from medattn_edge.errors import UsageError
from medattn_edge.io.dicom.files import SUFFIXES, is_dicom
from medattn_edge.io.format import Choice, Format
from medattn_edge.volume import Volume


def _read(path: Path) -> Volume:
    from medattn_edge.io.dicom.volume import choose_series, read_series

    return read_series(choose_series(path))


def _read_choice(path: Path, choice: Choice) -> Volume:
    from medattn_edge.io.dicom.volume import choose_series, read_series

    if choice.geometry:
        raise UsageError(f"--geometry with {path.name!r}", expected="a NIfTI file", hint="leave --geometry out")
    return read_series(choose_series(path, volume=choice.volume))


def _claims(path: Path) -> bool:
    return path.is_dir() or is_dicom(path)


FORMAT = Format("dicom", SUFFIXES, "dicom", ("pydicom",), _read, None, None, claims=_claims, read_choice=_read_choice)
