"""inspect, on DICOM: the series in a folder, a file or a DICOMDIR, and why one is refused."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import console

if TYPE_CHECKING:
    from medattn_edge.io.dicom.volume import SearchResult, Series


def show_series(path: Path, json: bool, volume: int = 0) -> None:
    """Print every series: what it is, whether it can be segmented, and the reason when not.

    Raises MissingDependency without pydicom, ScanError when there is no DICOM at all.
    """
    from medattn_edge.errors import MissingDependency, ScanError
    from medattn_edge.io.dicom.volume import search

    try:
        import pydicom  # noqa: F401
    except ImportError as error:
        raise MissingDependency.of_extra("pydicom", "dicom") from error
    result = search(path, volume)
    if not result.series:
        raise ScanError(
            f"{path} has no DICOM series ({result.ignored} other files)",
            expected="a folder of DICOM files, one file, or a DICOMDIR",
            hint="files count as DICOM when they begin with 128 bytes and DICM",
        )
    if json:
        console.print_json(
            {
                "series": [_facts(one) for one in result.series],
                "ignored_files": result.ignored,
                "notes": list(result.notes),
            }
        )
    else:
        _show(path, result)


def _facts(series: Series) -> dict[str, Any]:
    """One series without its UID and without free text."""
    from medattn_edge.reasons import SERIES_REASONS

    known = SERIES_REASONS[series.reason] if series.reason else None
    return {
        "series_hash": series.hash or None,
        "modality": series.modality,
        "slices": series.slices,
        **({"volume": series.volume} if series.volume else {}),
        "spacing_mm": [round(step, 6) for step in series.spacing_mm] if series.spacing_mm else None,
        "accepted": series.accepted,
        "reason": series.reason,
        "meaning": known.meaning if known else None,
        "detail": series.detail,
        "action": series.hint or known.action if known else None,
        "notes": list(series.notes),
    }


def _show(path: Path, result: SearchResult) -> None:
    from rich.table import Table

    from medattn_edge.reasons import SERIES_REASONS

    table = Table(title=str(path))
    for heading in ("series", "modality", "slices", "mm (z y x)", "accepted", "reason"):
        table.add_column(heading, no_wrap=True)
    for one in result.series:
        spacing = " ".join(f"{step:.4g}" for step in one.spacing_mm) if one.spacing_mm else "-"
        accepted = "yes" if one.accepted else "no"
        table.add_row(_name(one), one.modality or "?", str(one.slices), spacing, accepted, one.reason or "")
    console.show(table)
    refused = [one for one in result.series if one.reason]
    for one in refused:
        console.say(f"{_name(one)} {one.reason}: {one.detail}" + (f"; {one.hint}" if one.hint else ""))
    for reason in sorted({str(one.reason) for one in refused}):
        console.say(f"{reason}: {SERIES_REASONS[reason].meaning}; {SERIES_REASONS[reason].action}")
    for note in (*(note for one in result.series for note in one.notes), *result.notes):
        console.say(f"note: {note}")
    if result.ignored:
        console.say(f"passed over: {result.ignored} files that are not DICOM")


def _name(series: Series) -> str:
    return series.hash or "no UID"
