"""infer, on DICOM: which series is meant, and what may be written beside it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medattn_edge.errors import MissingDependency, UsageError

from .inspect_dicom import is_dicom_source

if TYPE_CHECKING:
    from medattn_edge.io.dicom.volume import Series
    from medattn_edge.volume import Volume

_KEY = "key_{}.dcm"  # as `secondary_capture` names them


def check_dicom_options(output: Path, scan: Path, seg_kind: str | None, key_slices: int, wanted: str) -> None:
    """Raise before any work: UsageError for options that have no sense together, MissingDependency."""
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


def read_scan(
    scan: Path, wanted: str, outputs: list[Path], geometry: str = "", volume: int = 0
) -> tuple[Volume, Series | None]:
    """The volume, and the series that it is where the scan is DICOM.

    Args:
        scan: file or folder.
        wanted: the first digits of the series' hash, "" for the only one.
        outputs: that must not replace a file of it.
        geometry: which form of a NIfTI header decides, "" for what the header prefers.
        volume: which of several volumes, from 1; 0 for the only one.

    Raises UsageError when an output would replace a file of the series, and what reading raises.
    """
    from medattn_edge.io import read_volume

    if not is_dicom_source(scan):
        return read_volume(scan, geometry, volume), None
    if geometry:
        raise UsageError(f"--geometry with {scan.name!r}", expected="a NIfTI file", hint="leave --geometry out")
    if find_spec("pydicom") is None:
        raise MissingDependency.of_extra("pydicom", "dicom")
    from medattn_edge.io.dicom.files import SUFFIXES
    from medattn_edge.io.dicom.seg import check_frame_of_reference
    from medattn_edge.io.dicom.volume import choose_series, read_series

    series = choose_series(scan, wanted, volume)
    if any(path.suffix.lower() in SUFFIXES for path in outputs):
        check_frame_of_reference(series)
    own = {path.resolve() for path in series.files}
    for path in outputs:
        if path.resolve() in own:
            raise UsageError(f"{path} is a file of the scan", expected="another file to write to", hint="-o seg.dcm")
    return read_series(series), series


def facts_of(series: Series) -> dict[str, Any]:
    """What --json says of the series, without its identifiers."""
    facts = {"series_hash": series.hash, "modality": series.modality, "slices": series.slices}
    return facts | ({"volume": series.volume} if series.volume else {})


def facts_of_grid(volume: Volume) -> dict[str, Any] | None:
    """What --json says of where the voxels are, for a file whose header says it in several ways."""
    source = volume.source
    return None if source is None else {name: source[name] for name in ("geometry", "codes", "apart_mm")}


def notes_of_grid(volume: Volume) -> list[str]:
    """What people should know of it."""
    source = volume.source
    if source is None:
        return []
    used, codes = str(source["geometry"]), source["codes"]
    other = "qform" if used == "sform" else "sform"
    if source["contradiction"]:
        return [f"the scan's {used} was chosen over its {other}, which contradicts it: {source['contradiction']}"]
    if source["apart_mm"] is not None and source["apart_mm"] > min(volume.spacing) / 2:
        return [
            f"the scan's {used} (code {codes[used]}) is used; its {other} (code {codes[other]}) puts the voxels up to "
            f"{source['apart_mm']:.1f} mm elsewhere, and NIfTI outputs have both"
        ]
    return []
