"""Headers as highdicom may see them: where the slices are and what to refer to, and nothing of the patient.

highdicom copies what it knows of the patient, and logs the name; it is shown neither, and `dicom_derived` adds what an
archive needs when highdicom is done.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

_IMAGE = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID", "Modality")
LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")
GEOMETRY = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness")
GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
NEEDED = (*_IMAGE, *LOSSY, "Rows", "Columns")


def clean_single(headers: Sequence[Any], step: float) -> list[Any]:
    """Clean headers of single-frame instances in slice order, `step` mm apart."""
    clean = []
    for header in headers:
        single = _anonymous(header)
        single.add(header["ImagePositionPatient"])
        # The directions may differ in their last digits from slice to slice, where highdicom wants them equal.
        single.add(headers[0]["ImageOrientationPatient"])
        single.update(_measures(headers[0], step))
        clean.append(single)
    return clean


def clean_multi_frame(header: Any, step: float) -> Any:
    """The clean header of a multi-frame instance, whose frames keep their order."""
    from pydicom.dataset import Dataset

    clean, shared, orientation = _anonymous(header), Dataset(), Dataset()
    groups = header.PerFrameFunctionalGroupsSequence
    orientation.add(macro(header, 0, "PlaneOrientationSequence")["ImageOrientationPatient"])
    shared.PlaneOrientationSequence = [orientation]
    shared.PixelMeasuresSequence = [_measures(macro(header, 0, "PixelMeasuresSequence"), step)]
    clean.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for place in range(len(groups)):
        position, frame = picked(macro(header, place, "PlanePositionSequence"), ("ImagePositionPatient",)), Dataset()
        frame.PlanePositionSequence = [position]
        frames.append(frame)
    clean.PerFrameFunctionalGroupsSequence = frames
    clean.NumberOfFrames = len(groups)
    return clean


def macro(header: Any, place: int, name: str) -> Any:
    """The item that describes the frame at a place (from 0) of a multi-frame instance, its own or the shared one."""
    own = header.PerFrameFunctionalGroupsSequence[place].get(name)
    return (own or header.SharedFunctionalGroupsSequence[0][name].value)[0]


def picked(header: Any, keywords: Iterable[str]) -> Any:
    """A dataset of those of the elements that are there."""
    from pydicom.dataset import Dataset

    chosen = Dataset()
    for keyword in keywords:
        if keyword in header:
            chosen.add(header[keyword])
    return chosen


def number(item: Any, keyword: str) -> float:
    """The first value of an element, 0 where there is no finite number."""
    try:
        value = item.get(keyword)
        first = float(value if isinstance(value, int | float | str) else next(iter(value)))
    except (ValueError, TypeError, StopIteration, OverflowError):
        return 0.0
    return first if np.isfinite(first) else 0.0


def _anonymous(header: Any) -> Any:
    clean = picked(header, NEEDED)
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex"):
        setattr(clean, keyword, "")
    for keyword in ("AccessionNumber", "StudyID", "StudyDate", "StudyTime"):
        setattr(clean, keyword, None)
    return clean


def _measures(item: Any, step: float) -> Any:
    """Spacing of pixels and slices; the slices' from their positions, whatever else the header says."""
    from pydicom.valuerep import format_number_as_ds

    measures = picked(item, ("PixelSpacing",))
    measures.SpacingBetweenSlices = format_number_as_ds(step)
    thickness = number(item, "SliceThickness")
    measures.SliceThickness = format_number_as_ds(thickness if thickness > 0 else step)
    return measures
