"""Small DICOM data sets in memory: what one step reads of a header, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from medattn_edge.io.dicom.reasons import RefusedSeries

# A single-frame CT as `planes_of` reads it.
_PLANE = {
    "Modality": "CT",
    "SOPInstanceUID": "1.2.3",
    "RescaleSlope": 2,
    "RescaleIntercept": -3,
    "RescaleType": "HU",
    "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
    "ImagePositionPatient": [1, 2, 3],
    "PixelSpacing": [1.5, 1.25],
}
# Its pixels as `storage_of` reads them.
_PIXELS = {
    "SamplesPerPixel": 1,
    "PhotometricInterpretation": "MONOCHROME2",
    "Rows": 40,
    "Columns": 36,
    "BitsAllocated": 16,
    "BitsStored": 12,
    "HighBit": 11,
    "PixelRepresentation": 0,
}


def plane_data_set(**changes: Any) -> Dataset:
    """Where and what a slice is: HU of 1.5 x 1.25 mm; a change to None leaves the element out."""
    return _filled(Dataset(), {key: value for key, value in (_PLANE | changes).items() if value is not None})


def pixel_data_set(**changes: Any) -> Dataset:
    """How 40 x 36 pixels of 12 bits are stored; a change to None is an element without a value."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = changes.pop("TransferSyntaxUID", ExplicitVRLittleEndian)
    return _filled(dataset, _PIXELS | changes)


def reason_of(call: Callable[[], Any]) -> str:
    """Why a series was refused, "" when it was not."""
    try:
        call()
    except RefusedSeries as refused:
        return refused.reason
    return ""


def _filled(dataset: Dataset, values: dict[str, Any]) -> Dataset:
    for keyword, value in values.items():
        if keyword.startswith("PixelPadding"):  # signed or not, as its value is: pydicom cannot know
            dataset.add_new(keyword, "SS" if isinstance(value, int) and value < 0 else "US", value)
        else:
            setattr(dataset, keyword, value)
    return dataset
