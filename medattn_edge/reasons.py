"""Why a series, a job or a delivery is refused: one catalogue for errors, page, log and retries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True)
class Reason:
    """One reason.

    Attributes:
        code: for programs: lower case, with underscores; it never changes.
        meaning: what happened, for people; one clause without a full stop, never an identifier of a patient.
        action: what to do about it, in the imperative.
        requeue: whether trying again without changing anything can succeed.
    """

    code: str
    meaning: str
    action: str
    requeue: bool = False


def catalogue(reasons: Iterable[Reason]) -> Mapping[str, Reason]:
    """Reasons by code.

    Raises:
        ValueError: when a code comes twice.
    """
    by_code: dict[str, Reason] = {}
    for reason in reasons:
        if reason.code in by_code:
            raise ValueError(f"two reasons have the code {reason.code}")
        by_code[reason.code] = reason
    return MappingProxyType(by_code)


SERIES_REASONS: Final = catalogue(
    (
        Reason("unreadable", "a file cannot be parsed", "copy or send it again"),
        Reason("truncated", "a file ends before its pixel data does", "copy or send it again"),
        Reason("missing_file", "the DICOMDIR lists files that are not there", "copy the whole medium"),
        Reason(
            "blank_uid",
            "an identifier is empty, not a UID or used twice, so nothing can be referenced",
            "repair the sender",
        ),
        Reason(
            "not_an_image",
            "the object has no pixels (a report, a plan, a structure set)",
            "send the images that it belongs to",
        ),
        Reason(
            "unsupported_modality",
            "it is no CT, MR or PET image, so there is no 3-D scan in it",
            "choose another series",
        ),
        Reason(
            "unsupported_transfer_syntax",
            "no decoder for the compression is installed",
            "install it, or send uncompressed",
        ),
        Reason(
            "unsupported_pixels",
            "the pixels are stored in a way that no CT, MR or PET scanner uses",
            "export the series again",
        ),
        Reason(
            "rgb", "the pixels have colours, so it is a picture of a scan and not a scan", "choose the original series"
        ),
        Reason(
            "too_large", "there are more voxels than any scan has", "look for a damaged header, or split the series"
        ),
        Reason(
            "no_geometry",
            "the position, direction or spacing of a slice is missing or impossible",
            "export the series again",
        ),
        Reason(
            "no_rescale",
            "stored numbers cannot be turned into physical values",
            "export the series again with its rescaling",
        ),
        Reason("localizer", "it is a scout view, one projection and not a scan", "choose another series"),
        Reason("mixed_series", "slices of different kinds share one series", "remove those that do not belong"),
        Reason("mixed_orientation", "the slices point in different directions", "send one stack of parallel slices"),
        Reason(
            "several_volumes",
            "there are several volumes (times, echoes, kernels, stacks) in one series",
            "send one of them, or take one with --volume",
        ),
        Reason(
            "no_frame_of_reference",
            "the series does not name its coordinates (FrameOfReferenceUID), so no segmentation can lie in them",
            "write the labels as .nii.gz, or give every file of a copy the same FrameOfReferenceUID",
        ),
        Reason("no_such_volume", "the series has fewer volumes than the number that was asked for", "see inspect"),
        Reason(
            "mosaic",
            "each image is a mosaic of all slices (Siemens), so its rows and columns are not those of a slice",
            "export it without mosaics (as enhanced MR), or convert it with dcm2niix and give the .nii.gz",
        ),
        Reason(
            "single_slice",
            "there is only one slice, and the distance to the next is unknown",
            "give the folder of the whole series",
        ),
        Reason("duplicate_position", "two slices are at one position", "remove the copies, or send one volume"),
        Reason("missing_slice", "a slice is missing between two others", "send the series again"),
        Reason("non_uniform_spacing", "the distance of the slices varies", "reconstruct with equal distances"),
        Reason("gantry_tilt", "the slices are stacked askew (tilted gantry)", "resample to a straight stack first"),
        Reason(
            "shifted_slice",
            "a slice lies beside the others",
            "send the series again, or reconstruct it with one centre",
        ),
    )
)
"""Why a DICOM series cannot become a volume."""
