"""infer, on DICOM: which series is meant, and what may be written beside it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medattn_edge.errors import MissingDependency, UsageError

if TYPE_CHECKING:
    from medattn_edge.io.dicom.volume import Series
    from medattn_edge.volume import Volume

_KEY = "key_{}.dcm"  # as `secondary_capture` names them


def check_dicom_options(output: Path, scan: Path, seg_kind: str | None, key_slices: int, wanted: str) -> None:
    """Raise before any work: UsageError for options that have no sense together, MissingDependency."""
    from medattn_edge.io.scan import is_dicom_source

    dicom = is_dicom_source(scan)
    if wanted and not dicom:
        raise UsageError(f"--series with {scan.name!r}", expected="a folder of DICOM files", hint="leave --series out")
    if output.suffix.lower() in (".dcm", ".dicom"):
        if scan.exists() and not dicom:
            raise UsageError(
                f"{output.name!r} for {scan.name!r}",
                expected="a DICOM series, for the segmentation to refer to",
                hint="-o labels.nii.gz",
            )
        if find_spec("highdicom") is None:
            raise MissingDependency.of_extra("highdicom", "dicom")
    elif seg_kind is not None or key_slices:
        what = "--seg-kind" if seg_kind is not None else "--key-slices"
        raise UsageError(f"{what} with {output.name!r}", expected="a DICOM output", hint="-o seg.dcm")


def outputs_beside(output: Path, key_slices: int) -> list[Path]:
    """The files that key slices may be written to."""
    return [output.with_name(_KEY.format(number)) for number in range(1, key_slices + 1)]


def read_scan(scan: Path, wanted: str, outputs: list[Path]) -> tuple[Volume, Series | None]:
    """The volume, and the series that it is where the scan is DICOM.

    Raises UsageError when an output would replace a file of the series, and what reading raises.
    """
    from medattn_edge.io import find_scan

    found = find_scan(scan, wanted)
    if found.series is None:
        return found.read(), None
    own = {path.resolve() for path in found.files}
    for path in outputs:
        if path.resolve() in own:
            raise UsageError(f"{path} is a file of the scan", expected="another file to write to", hint="-o seg.dcm")
    return found.read(), found.series


def facts_of(series: Series) -> dict[str, Any]:
    """What --json says of the series, without its identifiers."""
    return {"series_hash": series.hash, "modality": series.modality, "slices": series.slices}
