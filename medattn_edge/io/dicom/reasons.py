"""Why a DICOM series is refused: a code for programs, a sentence for people, and never an identifier."""

from __future__ import annotations

from collections.abc import Mapping

from medattn_edge.errors import ScanError

REASONS: Mapping[str, str] = {
    "unreadable": "a file cannot be parsed: copy or send it again",
    "truncated": "a file ends before its pixel data does: copy or send it again",
    "missing_file": "the DICOMDIR lists files that are not there: copy the whole medium",
    "blank_uid": "an identifier is empty, no UID or used twice, so nothing can be referenced: repair the sender",
    "not_an_image": "the object has no pixels (a report, a plan, a structure set): nothing to segment",
    "unsupported_modality": "no CT, MR or PET image, so there is no 3-D scan in it: choose another series",
    "unsupported_transfer_syntax": "no decoder for the compression is installed: install it, or send uncompressed",
    "unsupported_pixels": "the pixels are stored in a way that no CT, MR or PET scanner uses: export the series again",
    "rgb": "colour pixels, a picture of a scan and not a scan: choose the original series",
    "too_large": "more voxels than any scan has: the header is damaged, or split the series",
    "no_geometry": "the position, direction or spacing of a slice is missing or impossible: export the series again",
    "no_rescale": "stored numbers cannot be turned into physical values: export the series again with its rescaling",
    "localizer": "a scout view, one projection and not a scan: choose another series",
    "mixed_series": "slices of different kinds share one series: remove those that do not belong",
    "mixed_orientation": "slices point in different directions: send one stack of parallel slices",
    "several_volumes": "several volumes (echoes, phases, stacks) in one series: send one of them",
    "single_slice": "one slice alone, and the distance to the next is unknown: give the folder of the whole series",
    "duplicate_position": "two slices are at one position: remove the copies, or send one volume",
    "missing_slice": "a slice is missing between two others: send the series again",
    "non_uniform_spacing": "the distance of the slices varies: reconstruct with equal distances",
    "gantry_tilt": "the slices are stacked askew (tilted gantry): resample to a straight stack first",
    "shifted_slice": "a slice lies beside the others: send the series again, or reconstruct it with one centre",
}


class RefusedSeries(ScanError):
    """A DICOM series that cannot become a volume.

    reason: a key of REASONS. detail: what was found, without identifiers and without names of files.
    """

    def __init__(self, reason: str, detail: str, *, hint: str = "") -> None:
        meaning, _, advice = REASONS[reason].partition(": ")
        self.reason, self.detail = reason, detail
        super().__init__(
            f"the series is refused, {reason}: {meaning} ({detail})",
            expected="the whole and regular series of one CT, MR or PET scan",
            hint=hint or advice,
        )
