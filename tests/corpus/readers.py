"""What other programs read of the same files, as voxels and an affine to LPS mm, and how two readings differ."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medattn_edge.volume import Array

MAX_APART = 0.01  # of a voxel, at any corner: headers round
MAX_ERROR = 1e-5  # of the largest value: float32 and float64 of the same rescaling
_RAS_LPS = np.diag((-1.0, -1.0, 1.0, 1.0))
_REVERSED = np.eye(4)[[2, 1, 0, 3]]
_MM = {"unknown": 1.0, "mm": 1.0, "meter": 1000.0, "micron": 0.001}
_PHYSICAL = ("CT", "PT")


@dataclass(frozen=True, eq=False)
class Reading:
    """What one program reads.

    Attributes:
        reader: its name.
        voxels: (D, H, W), or (C, D, H, W) for several channels.
        affine: 4x4, from (d, h, w, 1) to (L, P, S, 1) mm; None for what has no place in a patient.
    """

    reader: str
    voxels: Array
    affine: Array | None


def by_nibabel(path: Path) -> Reading:
    """NIfTI of any compression, and FreeSurfer's."""
    import nibabel

    image: Any = nibabel.load(path)  # type: ignore[attr-defined]
    voxels = np.asarray(image.dataobj)
    shape = (*(*voxels.shape, 1, 1)[:3], *(size for size in voxels.shape[3:] if size > 1))
    units = getattr(image.header, "get_xyzt_units", lambda: ("mm",))()[0]
    scale = np.diag((*[_MM[units]] * 3, 1.0))
    return Reading("nibabel", voxels.reshape(shape).T, _RAS_LPS @ scale @ image.affine @ _REVERSED)


def by_simpleitk(path: Path) -> Reading:
    """NRRD and MetaImage; pictures and TIFF stacks, which have no place."""
    sitk: Any = importlib.import_module("SimpleITK")
    image = sitk.ReadImage(str(path))
    voxels = sitk.GetArrayFromImage(image)
    if image.GetNumberOfComponentsPerPixel() > 1:
        voxels = np.moveaxis(voxels, -1, 0)
    if image.GetDimension() == 2:
        voxels = np.expand_dims(voxels, -3)
    return Reading("SimpleITK", voxels, None if path.suffix.lower() in _PICTURES else _placed(image))


def by_numpy(path: Path) -> Reading:
    """The arrays of an archive."""
    with np.load(path) as archive:
        voxels = archive["voxels"]
        return Reading("numpy", voxels[None] if voxels.ndim == 2 else voxels, archive.get("affine"))


def by_highdicom(files: Sequence[Path]) -> Reading:
    """A DICOM series as highdicom makes a volume of it, values as PS3.3 rescales them."""
    import highdicom
    import pydicom

    datasets = [pydicom.dcmread(path) for path in files]
    options = {"apply_presentation_lut": False, "apply_real_world_transform": False, "apply_voi_transform": False}
    if len(datasets) == 1 and int(datasets[0].get("NumberOfFrames") or 1) > 1:
        volume: Any = highdicom.Image.from_dataset(datasets[0]).get_volume(**options)  # type: ignore[arg-type]
    else:
        volume = highdicom.get_volume_from_series(datasets, **options)  # type: ignore[arg-type]
    return Reading("highdicom", _polarity(volume.array, datasets[0], turned=False), volume.affine)


def by_simpleitk_series(files: Sequence[Path]) -> Reading:
    """A DICOM series as ITK's GDCM makes a volume of it, its files in the order of their positions."""
    import pydicom

    sitk: Any = importlib.import_module("SimpleITK")
    heads = [pydicom.dcmread(path, stop_before_pixels=True) for path in files]
    if len(files) == 1:
        image = sitk.ReadImage(str(files[0]))
    else:
        turn = np.reshape([float(value) for value in heads[0].ImageOrientationPatient], (2, 3))
        along = [np.dot(np.cross(*turn), [float(value) for value in head.ImagePositionPatient]) for head in heads]
        image = sitk.ReadImage([str(files[index]) for index in np.argsort(along)])
    return Reading("SimpleITK", _polarity(sitk.GetArrayFromImage(image), heads[0], turned=True), _placed(image))


_PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
READERS: Mapping[str, Callable[[Path], Reading]] = {
    **dict.fromkeys(("nifti", "nifti-bz2", "nifti-zst", "mgh"), by_nibabel),
    **dict.fromkeys(("nrrd", "metaimage", "image", "tiff"), by_simpleitk),
    "numpy": by_numpy,
}
SERIES_READERS: tuple[Callable[[Sequence[Path]], Reading], ...] = (by_highdicom, by_simpleitk_series)


def difference(ours: Reading, theirs: Reading, padded: bool = False) -> str:
    """How two readings differ, "" when they are the same voxels in the same places.

    Both are turned along the patient's axes first: which way round a program keeps its array is its own affair.

    Args:
        ours: the product's.
        theirs: of another program.
        padded: whether the file says which values stand for no value: ours are then the lowest of the rest.
    """
    if (ours.affine is None) != (theirs.affine is None):
        return f"placed by {theirs.reader if ours.affine is None else 'us'} only"
    (voxels, affine), (expected, wanted) = _turned(ours), _turned(theirs)
    if voxels.shape != expected.shape:
        return f"shape {voxels.shape}, {theirs.reader} has {expected.shape}"
    corners = np.array([(*corner, 1) for corner in np.ndindex(2, 2, 2)], float)
    corners[:, :3] *= np.array(voxels.shape[-3:]) - 1
    apart = float(np.linalg.norm((affine - wanted)[:3] @ corners.T, axis=0).max())
    if not apart <= MAX_APART * np.linalg.norm(wanted[:3, :3], axis=0).min():
        return f"up to {apart:.3g} mm from where {theirs.reader} puts the voxels"
    voxels, expected = voxels.astype(np.float64), expected.astype(np.float64)
    if padded:
        expected = np.maximum(expected, voxels.min())
    finite = np.isfinite(voxels) & np.isfinite(expected)
    same = finite | (np.isnan(voxels) & np.isnan(expected)) | (voxels == expected)
    error = np.abs(voxels - expected, where=finite, out=np.zeros_like(voxels))
    limit = MAX_ERROR * max(1.0, float(np.abs(expected[finite]).max(initial=0.0)))
    wrong = int((~same | (error > limit)).sum())
    return f"{wrong} of {voxels.size} values differ from {theirs.reader}'s, by up to {error.max():.4g}" if wrong else ""


def _turned(reading: Reading) -> tuple[Array, Array]:
    """Voxels and affine with axes that run along L, P and S, by nibabel; what has no place stays as it is."""
    from nibabel import orientations

    if reading.affine is None:
        return reading.voxels, np.eye(4)
    voxels = np.moveaxis(reading.voxels, 0, -1) if reading.voxels.ndim == 4 else reading.voxels
    turns: Any = orientations.io_orientation(reading.affine)  # type: ignore[no-untyped-call]
    turned = orientations.apply_orientation(voxels, turns)  # type: ignore[no-untyped-call]
    affine = reading.affine @ orientations.inv_ornt_aff(turns, voxels.shape[:3])  # type: ignore[no-untyped-call]
    return np.moveaxis(turned, -1, 0) if turned.ndim == 4 else turned, affine


def _placed(image: Any) -> Array:
    """ITK's direction, spacing and origin as an affine of (d, h, w)."""
    affine = np.eye(4)
    turned = np.reshape(image.GetDirection(), (3, 3)) * np.array(image.GetSpacing())
    affine[:3, :3], affine[:3, 3] = turned[:, ::-1], image.GetOrigin()
    return affine


def _polarity(values: Array, head: Any, *, turned: bool) -> Array:
    """Values as PS3.3 means them: MONOCHROME1 is how physical values like to be shown, and turns all others round.

    Args:
        values: rescaled.
        head: of the file.
        turned: whether the reader turns MONOCHROME1 round, whatever it is; otherwise it never does.
    """
    if head.PhotometricInterpretation != "MONOCHROME1" or turned is (head.Modality not in _PHYSICAL):
        return values
    low = -(1 << (head.BitsStored - 1)) if head.PixelRepresentation else 0
    slope, intercept = float(head.get("RescaleSlope", 1)), float(head.get("RescaleIntercept", 0))
    return (2 * low + (1 << head.BitsStored) - 1) * slope + 2 * intercept - values
