"""Synthetic DICOM series around real CT voxels: what a scanner would send, with nothing of a patient in it.

`write_series(folder, voxels, affine, *, modality="CT", enhanced=False, transfer_syntax=..., **changes) -> list[Path]`
writes one series and returns its files in slice order. `real_ct()` gives voxels and a grid; `in_plane()` turns them
into an axial, coronal, sagittal or oblique acquisition. The same arguments give the same bytes.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.fileset import FileSet
from pydicom.sequence import Sequence as Items
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from medattn_edge.data.samples import sample_scan
from medattn_edge.io import read_volume
from medattn_edge.volume import Volume
from tests.support.jpeg_lossless import encode

CLASSES = {
    ("CT", False): "1.2.840.10008.5.1.4.1.1.2",
    ("MR", False): "1.2.840.10008.5.1.4.1.1.4",
    ("PT", False): "1.2.840.10008.5.1.4.1.1.128",
    ("CT", True): "1.2.840.10008.5.1.4.1.1.2.1",
    ("MR", True): "1.2.840.10008.5.1.4.1.1.4.1",
    ("PT", True): "1.2.840.10008.5.1.4.1.1.130",
}


# Decoded by pydicom's plug-ins, encoded by none of them.
LOSSLESS_JPEG = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")


@dataclass(frozen=True)
class Stored:
    """How values become stored integers: value = stored * slope + intercept.

    slope, intercept: one number, or one per slice. dirt: fills the bits above BitsStored, which mean nothing.
    """

    slope: float | Sequence[float] = 1.0
    intercept: float | Sequence[float] = 0.0
    signed: bool = True
    bits: int = 16
    photometric: str = "MONOCHROME2"
    dirt: bool = False


def real_ct(depth: int = 6, height: int = 40, width: int = 36) -> Volume:
    """Whole HU (D, H, W) as int16 from the middle of the chest CT that slicerio ships, D to the head."""
    scan = read_volume(sample_scan()).to_lps()
    d, h, w = (int(size) // 2 for size in scan.shape)
    box = scan.voxels[d : d + depth, h - height // 2 :, w - width // 2 :][:, :height, :width]
    affine = np.array(scan.affine)
    affine[:3, 3] = scan.point(d, h - height // 2, w - width // 2)
    # The spacing gets three different values, so that no two axes can be swapped unnoticed.
    affine[:3, :3] = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0) * (4.0, 1.5, 1.25)
    return Volume(np.ascontiguousarray(box).astype(np.int16), affine)


def in_plane(volume: Volume, plane: str) -> Volume:
    """The same patient, acquired as "axial", "coronal" or "sagittal" slices, or "oblique": the patient turned."""
    order = {"axial": (0, 1, 2), "coronal": (1, 0, 2), "sagittal": (2, 0, 1), "oblique": (0, 1, 2)}[plane]
    affine = np.array(volume.affine)
    affine[:3, :3] = affine[:3, list(order)]
    voxels = np.ascontiguousarray(volume.voxels.transpose(order))
    if plane == "oblique":
        a, b = 0.4, -0.3
        turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
        turn = turn @ np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
        affine[:3] = turn @ affine[:3]
    return Volume(voxels, affine)


def write_series(
    folder: Path,
    voxels: np.ndarray,
    affine: np.ndarray,
    *,
    modality: str = "CT",
    enhanced: bool = False,
    transfer_syntax: str = ExplicitVRLittleEndian,
    stored: Stored = Stored(),
    **changes: Any,
) -> list[Path]:
    """One series: a file per slice, or one enhanced multi-frame file; returns the files in slice order.

    voxels: (D, H, W), whole values in the units after rescaling (HU for CT). affine: a Volume's, to LPS mm; D must step
    along the normal of the slices, or the series has a gantry tilt. changes: DICOM keyword = value for every file, None
    removes it, a function gets the index of the slice: `InstanceNumber=lambda i: 9 - i`. The UIDs follow from
    SeriesInstanceUID (change it for a second series in one folder) and `name=` starts the names of the files.
    """
    name = changes.pop("name", "slice")
    datasets = make_series(
        voxels, affine, modality=modality, enhanced=enhanced, transfer_syntax=transfer_syntax, stored=stored, **changes
    )
    Path(folder).mkdir(parents=True, exist_ok=True)
    paths = [Path(folder) / f"{name}_{index:04d}.dcm" for index in range(len(datasets))]
    for path, dataset in zip(paths, datasets, strict=True):
        save(path, dataset)
    return paths


def make_series(
    voxels: np.ndarray,
    affine: np.ndarray,
    *,
    modality: str = "CT",
    enhanced: bool = False,
    transfer_syntax: str = ExplicitVRLittleEndian,
    stored: Stored = Stored(),
    **changes: Any,
) -> list[Dataset]:
    """The datasets that `write_series` writes, for a sender or for more changes; `save` writes one."""
    series_uid = str(changes.get("SeriesInstanceUID") or generate_uid(entropy_srcs=["series", modality]))
    integers = np.stack([_integers(plane, stored, index) for index, plane in enumerate(voxels)])
    frames = [integers] if enhanced else list(integers[:, None])
    datasets = []
    for index, pixels in enumerate(frames):
        dataset = _header(modality, enhanced, series_uid, index)
        (_enhanced_grid if enhanced else _grid)(dataset, np.asarray(affine, dtype=float), stored, (index, len(voxels)))
        _pixel_module(dataset, pixels, stored, big=transfer_syntax == "1.2.840.10008.1.2.2")
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        _compress(dataset, transfer_syntax)
        for keyword, value in changes.items():
            _change(dataset, keyword, value(index) if callable(value) else value)
        dataset.file_meta.MediaStorageSOPInstanceUID = UID(dataset.get("SOPInstanceUID") or "1.2.3")
        dataset.file_meta.MediaStorageSOPClassUID = UID(dataset.get("SOPClassUID") or "1.2.3")
        datasets.append(dataset)
    return datasets


def save(path: Path, dataset: Dataset) -> Path:
    """Write a dataset as a DICOM file, in its own transfer syntax."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of what a test breaks on purpose
        dataset.save_as(path, enforce_file_format=True)
    return path


def write_medium(files: Sequence[Path], folder: Path) -> Path:
    """Copy files to a new folder as DICOM media have them; returns its DICOMDIR."""
    medium = FileSet()
    for path in files:
        medium.add(path)
    medium.write(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves its temporary folder to the garbage collector
        del medium
        gc.collect()
    return Path(folder) / "DICOMDIR"


def _header(modality: str, enhanced: bool, series_uid: str, index: int) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"] if not enhanced else ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    dataset.SOPClassUID = CLASSES[modality, enhanced]
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[series_uid, str(index)])
    for keyword in ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate"):
        setattr(dataset, keyword, "20200101")
    for keyword in ("StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime"):
        setattr(dataset, keyword, "120000")
    dataset.AccessionNumber = ""
    dataset.Modality = modality
    dataset.Manufacturer = "Phantom"
    dataset.ReferringPhysicianName = ""
    dataset.StudyDescription = "synthetic study"
    dataset.SeriesDescription = "synthetic series"
    dataset.PatientName = "Phantom^Synthetic"
    dataset.PatientID = "PHANTOM-1"
    dataset.PatientBirthDate = ""
    dataset.PatientSex = "O"
    dataset.BodyPartExamined = "CHEST"
    dataset.KVP = "120" if modality == "CT" else None
    dataset.PatientPosition = "HFS"
    dataset.StudyInstanceUID = generate_uid(entropy_srcs=["study", series_uid])
    dataset.SeriesInstanceUID = series_uid
    dataset.StudyID = "1"
    dataset.SeriesNumber = "1"
    dataset.InstanceNumber = str(index + 1)
    dataset.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame", series_uid])
    dataset.PositionReferenceIndicator = ""
    return dataset


def _directions(affine: np.ndarray) -> tuple[list[str], list[str], float]:
    """ImageOrientationPatient, PixelSpacing, and the distance of two slices."""
    depth, down, right = (affine[:3, axis] for axis in range(3))
    down_mm, right_mm = float(np.linalg.norm(down)), float(np.linalg.norm(right))
    orientation = [_decimal(value) for value in (*(right / right_mm), *(down / down_mm))]
    return orientation, [_decimal(down_mm), _decimal(right_mm)], float(np.linalg.norm(depth))


def _grid(dataset: Dataset, affine: np.ndarray, stored: Stored, place: tuple[int, int]) -> None:
    index = place[0]
    orientation, spacing, thickness = _directions(affine)
    dataset.ImageOrientationPatient, dataset.PixelSpacing = orientation, spacing
    dataset.ImagePositionPatient = [_decimal(value) for value in affine[:3, 3] + index * affine[:3, 0]]
    dataset.SliceThickness = _decimal(thickness)
    slope, intercept = _of(stored.slope, index), _of(stored.intercept, index)
    if dataset.Modality != "MR" or (slope, intercept) != (1.0, 0.0):
        dataset.RescaleIntercept, dataset.RescaleSlope = _decimal(intercept), _decimal(slope)
    if dataset.Modality == "CT":
        dataset.RescaleType = "HU"


def _enhanced_grid(dataset: Dataset, affine: np.ndarray, stored: Stored, place: tuple[int, int]) -> None:
    """Functional groups: what all frames have in common is shared, the rest is per frame."""
    orientation, spacing, thickness = _directions(affine)
    measures, plane = Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = spacing, _decimal(thickness)
    plane.ImageOrientationPatient = orientation
    shared = Dataset()
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = Items([measures]), Items([plane])
    constant = np.ndim(stored.slope) == np.ndim(stored.intercept) == 0
    if constant:
        shared.PixelValueTransformationSequence = Items([_transformation(dataset, stored, 0)])
    dataset.SharedFunctionalGroupsSequence = Items([shared])
    frames = []
    for index in range(place[1]):
        content, position, frame = Dataset(), Dataset(), Dataset()
        content.StackID, content.InStackPositionNumber, content.DimensionIndexValues = "1", index + 1, [1, index + 1]
        position.ImagePositionPatient = [_decimal(value) for value in affine[:3, 3] + index * affine[:3, 0]]
        frame.FrameContentSequence, frame.PlanePositionSequence = Items([content]), Items([position])
        if not constant:
            frame.PixelValueTransformationSequence = Items([_transformation(dataset, stored, index)])
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = Items(frames)
    dataset.NumberOfFrames = str(place[1])
    organisation = Dataset()
    organisation.DimensionOrganizationUID = generate_uid(entropy_srcs=["dimension", dataset.SOPInstanceUID])
    dataset.DimensionOrganizationSequence = Items([organisation])
    dataset.DimensionIndexSequence = Items()
    for pointer in (0x00209056, 0x00209057):  # stack, and position in it
        item = Dataset()
        item.DimensionOrganizationUID = organisation.DimensionOrganizationUID
        item.DimensionIndexPointer, item.FunctionalGroupPointer = pointer, 0x00209111
        dataset.DimensionIndexSequence.append(item)


def _transformation(dataset: Dataset, stored: Stored, index: int) -> Dataset:
    item = Dataset()
    item.RescaleIntercept = _decimal(_of(stored.intercept, index))
    item.RescaleSlope = _decimal(_of(stored.slope, index))
    item.RescaleType = "HU" if dataset.Modality == "CT" else "US"
    return item


def _integers(plane: np.ndarray, stored: Stored, index: int) -> np.ndarray:
    """Stored integers of one slice; asserts that they give the values back and fit the bits."""
    values = (plane.astype(np.float64) - _of(stored.intercept, index)) / _of(stored.slope, index)
    integers = np.rint(values).astype(np.int64)
    low, high = (-(1 << stored.bits - 1), (1 << stored.bits - 1) - 1) if stored.signed else (0, (1 << stored.bits) - 1)
    assert low <= integers.min(), f"{integers.min()} does not fit {stored}"
    assert integers.max() <= high, f"{integers.max()} does not fit {stored}"
    if stored.photometric == "MONOCHROME1":
        integers = low + high - integers
    whole = integers & ((1 << stored.bits) - 1)
    allocated = 8 if stored.bits <= 8 else 16
    if stored.dirt:
        whole |= ((1 << allocated) - (1 << stored.bits)) & 0xAAAA
    elif stored.signed:
        whole = integers & ((1 << allocated) - 1)
    return whole.astype(f"<u{allocated // 8}")


def _pixel_module(dataset: Dataset, pixels: np.ndarray, stored: Stored, big: bool) -> None:
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = stored.photometric
    dataset.Rows, dataset.Columns = pixels.shape[1:]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = pixels.itemsize * 8, stored.bits, stored.bits - 1
    dataset.PixelRepresentation = int(stored.signed)
    raw = pixels.astype(pixels.dtype.newbyteorder(">")).tobytes() if big else pixels.tobytes()
    dataset.PixelData = raw + b"\0" * (len(raw) % 2)
    dataset["PixelData"].VR = "OB" if pixels.itemsize == 1 else "OW"


def _compress(dataset: Dataset, syntax: str) -> None:
    """Encapsulated by pydicom's encoders; the native syntaxes are left to the writer."""
    from pydicom.uid import UID

    uid = UID(syntax)
    if not uid.is_compressed or uid.is_deflated:
        dataset.file_meta.TransferSyntaxUID = uid
        return
    if uid in LOSSLESS_JPEG:
        _jpeg_lossless(dataset, uid)
        return
    settings: dict[str, Any] = {"generate_instance_uid": False}
    if uid.name == "JPEG 2000 Image Compression":
        settings["j2k_cr"] = [4]
    if uid == "1.2.840.10008.1.2.4.81":
        settings["jls_error"] = 2
    dataset.compress(uid, **settings)


def _jpeg_lossless(dataset: Dataset, uid: str) -> None:
    words = np.frombuffer(dataset.PixelData, f"<u{dataset.BitsAllocated // 8}")
    frames = words[: words.size // (dataset.Rows * dataset.Columns) * dataset.Rows * dataset.Columns]
    streams = [encode(frame) for frame in frames.reshape(-1, dataset.Rows, dataset.Columns)]
    dataset.PixelData = encapsulate(streams)
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    dataset.file_meta.TransferSyntaxUID = UID(uid)


def _change(dataset: Dataset, keyword: str, value: Any) -> None:
    if value is None:
        dataset.pop(keyword, None)
    else:
        setattr(dataset, keyword, value)


def _decimal(value: float) -> str:
    """A DS value: at most 16 characters."""
    value = float(value)
    if value == int(value):
        return str(int(value))
    return next(text for digits in range(14, 5, -1) if len(text := f"{value:.{digits}g}") <= 16)


def _of(value: float | Sequence[float], index: int) -> float:
    return float(value[index]) if isinstance(value, Sequence) else float(value)
