"""NIfTI, through nibabel. The file's array is (i, j, k) in RAS; the volume is (k, j, i) = (D, H, W) in LPS."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medattn_edge.atomic import replacing
from medattn_edge.errors import GeometryError, ScanError
from medattn_edge.io.format import Format, check_calibrated, unreadable
from medattn_edge.volume import Array, Volume

_MM = {"unknown": 1.0, "mm": 1.0, "meter": 1000.0, "micron": 0.001}
_RAS_LPS = np.diag((-1.0, -1.0, 1.0, 1.0))
_IJK_DHW = np.eye(4)[[2, 1, 0, 3]]


def read(path: Path) -> Volume:
    """One scan, or several volumes on one grid as channels (C, D, H, W), in the file's own type, or scaled to float32.

    Raises:
        ScanError: for volumes along several axes, for colour and for complex voxels.
        GeometryError: when neither sform nor qform is set, because the file then does not say which side is left.
    """
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    failures = (ImageFileError, HeaderDataError, WrapStructError, OSError, EOFError, zlib.error, MemoryError)
    try:
        # Without mmap: a memory map would read the file long after this function said that it is whole.
        image: Any = nibabel.load(path, mmap=False)
        if type(image) not in (nibabel.Nifti1Image, nibabel.Nifti2Image):
            raise ImageFileError(f"nibabel takes it for {type(image).__name__}")
        _check(path, image)
        stored: Array = np.asarray(image.dataobj, dtype=np.float32 if _scales(image) else None)
        millimetres = _MM[image.header.get_xyzt_units()[0]]
    except (*failures, ValueError, KeyError, IndexError, TypeError, ArithmeticError) as error:
        raise unreadable(path, "NIfTI", error) from error
    voxels = stored.reshape((*(*stored.shape, 1)[:3], *(size for size in stored.shape[3:] if size > 1))).T
    affine = _RAS_LPS @ np.diag((millimetres, millimetres, millimetres, 1.0)) @ image.affine @ _IJK_DHW
    return Volume(voxels.astype(voxels.dtype.newbyteorder("="), copy=False), affine)


def write_labels(path: Path, volume: Volume, names: Sequence[str]) -> None:
    """Labels in their own type, uint8 up to 255; NIfTI has no place for their names."""
    _write(path, volume)


def write_maps(path: Path, volume: Volume, names: Sequence[str]) -> None:
    """A 4-D float32 file (i, j, k, C); NIfTI has no place for the names."""
    _write(path, volume)


def _check(path: Path, image: Any) -> None:
    """Refuse what is not real volumes with a known orientation."""
    if len(image.shape) < 2 or sum(size != 1 for size in image.shape[3:]) > 1:
        raise ScanError(
            f"{path} has the shape {image.shape}",
            expected="one 3-D scan, or several as the channels of a fourth axis",
            hint="take one volume: python -c \"import nibabel; nibabel.load('in.nii.gz').slicer[..., 0]"
            ".to_filename('out.nii.gz')\"",
        )
    if image.get_data_dtype().kind not in "biuf":
        raise ScanError(
            f"{path} has voxels of the type {image.header['datatype']} (colour or complex)",
            expected="one real number per voxel",
            hint="export the scan in grey values, or convert it again from DICOM",
        )
    if not image.header["sform_code"] and not image.header["qform_code"]:
        raise GeometryError(
            f"{path} does not say which side is left: its sform and qform codes are 0",
            expected="a sform or qform code of 1 or more",
            hint="convert it again from DICOM, or, if a viewer shows it the right way round: python -c "
            "\"import nibabel; i = nibabel.load('in.nii.gz'); i.set_sform(i.affine, 1); i.to_filename('out.nii.gz')\"",
        )


def _scales(image: Any) -> bool:
    return (image.dataobj.slope, image.dataobj.inter) != (1, 0)


def _write(path: Path, volume: Volume) -> None:
    """(D, H, W) as (i, j, k), (C, D, H, W) as (i, j, k, C), without scaling, and the grid in sform."""
    import nibabel

    check_calibrated(path, volume)
    affine = _RAS_LPS @ volume.affine @ _IJK_DHW
    nifti: Any = nibabel.Nifti1Image
    image = nifti(volume.voxels.T, affine)
    image.header.set_xyzt_units("mm")
    image.header.set_slope_inter(1, 0)
    image.set_sform(affine, 1)
    # A quaternion cannot hold shear; code 0 sends every reader to sform.
    image.set_qform(affine, 0 if _sheared(affine) else 1, strip_shears=True)
    with replacing(path) as temporary, temporary.open("wb") as file:
        if path.name.lower().endswith(".gz"):
            # No name and no time in the header: the same labels are the same bytes.
            with gzip.GzipFile("", "wb", 6, file, mtime=0) as packed:
                image.to_stream(packed)
        else:
            image.to_stream(file)


def _sheared(affine: Array) -> bool:
    unit = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return not np.allclose(unit.T @ unit, np.eye(3), rtol=0, atol=1e-4)


FORMAT = Format("nifti", (".nii", ".nii.gz"), "nifti", ("nibabel",), read, write_labels, write_maps)
