"""NIfTI, through nibabel. The file's array is (i, j, k) in RAS; the volume is (k, j, i) = (D, H, W) in LPS."""

from __future__ import annotations

import bz2
import gzip
import importlib
import json
import math
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from medattn_edge.atomic import replacing
from medattn_edge.errors import ScanError, UsageError
from medattn_edge.io.bounds import check_size, read_to_end
from medattn_edge.io.format import Choice, Format, Regions, check_calibrated, unreadable
from medattn_edge.io.nifti_forms import GEOMETRIES, Forms, forms_of, kept_fields, put_fields
from medattn_edge.volume import Array, Volume

_MM = {"unknown": 1.0, "mm": 1.0, "meter": 1000.0, "micron": 0.001}
_NONE = Choice()
ZSTD = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"  # the package that unpacks .zst
_RAS_LPS = np.diag((-1.0, -1.0, 1.0, 1.0))
_IJK_DHW = np.eye(4)[[2, 1, 0, 3]]
_COMMENT = 6  # the code of plain text among the extensions of a header
_NAMES = "medattn-edge regions"  # the key of the names in a comment of the header


def read(path: Path, choice: Choice = _NONE) -> Volume:
    """One scan, or several volumes on one grid as channels (C, D, H, W), in the file's own type, or scaled to float32.

    The volume's `source` holds both forms of the header, which `write_labels` and `write_maps` put into files on the
    same grid.

    Raises:
        UsageError: for a choice that the file does not leave.
        ScanError: for volumes along several axes, for colour and for complex voxels, and for a file that is damaged,
            its check sum included.
        GeometryError: when neither sform nor qform is set, because the file then does not say which side is left, and
            when they contradict each other.
    """
    stored, source, _ = _read(path, choice)
    return _volume(stored, source)


def from_image(image: Any) -> Volume:
    """An image that nibabel holds in memory, as `read` gives a file; raises as `read` does.

    Args:
        image: a nibabel.Nifti1Image or Nifti2Image.
    """
    image.update_header()
    path = Path(image.get_filename() or "image in memory")
    with _named(path):
        stored, _, source = _contents(path, image, _NONE, maps=False)
    return _volume(stored.astype(stored.dtype.newbyteorder("="), copy=False), source)


def _volume(stored: Array, source: Mapping[str, Any]) -> Volume:
    """Of the array (i, j, k, ...) and the facts of the header."""
    shape = (*(*stored.shape, 1)[:3], *(size for size in stored.shape[3:] if size > 1))
    return Volume(stored.reshape(shape).T, np.array(source["affine"]), source=source)


def read_regions(path: Path, choice: Choice = _NONE) -> Regions | None:
    """The maps of a 4-D file (i, j, k, K); their names where it is one of ours. None for a 3-D file."""
    stored, source, names = _read(path, choice, maps=True)
    if stored.ndim != 4:
        return None
    named = len(names) == stored.shape[3]
    return Volume(stored.T, np.array(source["affine"]), source=source), names if named else ("",) * stored.shape[3]


def _read(path: Path, choice: Choice, *, maps: bool = False) -> tuple[Array, dict[str, Any], tuple[str, ...]]:
    """The array (i, j, k, ...) in the machine's byte order, the facts of the header, and the names of regions in it."""
    with _named(path):
        with _opened(path) as stream:
            image = _image(stream)
            stored, shape, source = _contents(path, image, choice, maps)
            read_to_end(path, stream)
        names = _region_names(image)
    if choice.volume > 0:
        stored = stored.reshape((*shape[:3], -1), order="F")[..., choice.volume - 1]
    return stored.astype(stored.dtype.newbyteorder("="), copy=False), source, names


def _contents(path: Path, image: Any, choice: Choice, maps: bool) -> tuple[Array, tuple[int, ...], dict[str, Any]]:
    """The array as it is stored or scaled, its shape, and the facts of the header."""
    shape = _check(path, image, choice, maps)
    forms = forms_of(path, image.header, shape[:3], choice.geometry)
    stored: Array = np.asarray(image.dataobj, dtype=np.float32 if _scales(image) else None)
    return stored, shape, _source(image, forms)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """What nibabel raises for a damaged file, as an error that names it."""
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    failures = (ImageFileError, HeaderDataError, WrapStructError, OSError, EOFError, zlib.error, MemoryError)
    try:
        yield
    except (*failures, ValueError, KeyError, IndexError, TypeError, ArithmeticError) as error:
        raise unreadable(path, "NIfTI", error) from error


def _source(image: Any, forms: Forms) -> dict[str, Any]:
    """What a header says of the grid, for `Volume.source`."""
    millimetres = _MM[image.header.get_xyzt_units()[0]]
    affine = _RAS_LPS @ np.diag((millimetres, millimetres, millimetres, 1.0)) @ forms.affine @ _IJK_DHW
    return {
        "format": "nifti",
        "geometry": forms.geometry,
        "codes": dict(zip(GEOMETRIES, forms.codes, strict=True)),
        "apart_mm": None if forms.apart is None else forms.apart * millimetres,
        "contradiction": forms.contradiction,
        "affine": affine.tolist(),
        "fields": kept_fields(image.header),
    }


def write_labels(path: Path, volume: Volume, names: Sequence[str]) -> None:
    """Labels in their own type, uint8 up to 255; NIfTI has no place for their names."""
    _write(path, volume)


def write_maps(path: Path, volume: Volume, names: Sequence[str]) -> None:
    """A 4-D float32 file (i, j, k, C); NIfTI has no place for the names."""
    _write(path, volume)


def write_regions(path: Path, volume: Volume, names: Sequence[str]) -> None:
    """A 4-D uint8 file (i, j, k, K); the names are JSON in a comment of the header, which other readers skip."""
    _write(path, volume, json.dumps({_NAMES: list(names)}))


def _region_names(image: Any) -> tuple[str, ...]:
    for extension in image.header.extensions:
        if extension.get_code() == _COMMENT:
            content = extension.get_content()
            text = content if isinstance(content, str) else bytes(content).decode("utf-8", "replace")
            try:
                names = json.loads(text.rstrip("\0 "))[_NAMES]
            except (ValueError, LookupError, TypeError):
                continue  # somebody else's comment
            if isinstance(names, list) and all(isinstance(name, str) for name in names):
                return tuple(names)
    return ()


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The file's bytes, decompressed; whoever reads to their end has compared the check sum."""
    name = path.name.lower()
    with path.open("rb") as file:
        if name.endswith(".gz"):
            with gzip.GzipFile(fileobj=file) as unpacked:
                yield cast("BinaryIO", unpacked)
        elif name.endswith(".bz2"):
            with bz2.BZ2File(file) as unpacked_bz2:
                yield cast("BinaryIO", unpacked_bz2)
        elif name.endswith(".zst"):
            with importlib.import_module(ZSTD).open(file) as unpacked_zst:
                yield unpacked_zst
        else:
            yield file


def _image(stream: Any) -> Any:
    """nibabel's image of a stream; it has read the header, and nothing of the voxels."""
    import nibabel
    from nibabel.filebasedimages import ImageFileError

    length = stream.read(4)
    stream.seek(0)
    for kind, size in ((nibabel.Nifti1Image, 348), (nibabel.Nifti2Image, 540)):
        if length in (size.to_bytes(4, "little"), size.to_bytes(4, "big")):
            return kind.from_stream(stream)
    raise ImageFileError("it does not begin with the length of a NIfTI header")


def _check(path: Path, image: Any, choice: Choice, maps: bool) -> tuple[int, ...]:
    """Refuse what is not real volumes of one axis at most, or maps; the shape of what is, of every axis."""
    shape = tuple(int(size) for size in image.shape)
    volumes = math.prod(shape[3:])
    if len(shape) < 2 or (sum(size != 1 for size in shape[3:]) > 1 and not choice.volume and not maps):
        raise ScanError(
            f"{path} has the shape {shape}",
            expected="one 3-D scan, or several as the channels of a fourth axis",
            hint=f"--volume N takes one of the {volumes}; as a file of its own: python -c "
            "\"import nibabel; nibabel.load('in.nii.gz').slicer[..., 0].to_filename('out.nii.gz')\"",
        )
    if choice.volume > volumes or choice.volume < 0:
        raise UsageError(f"--volume {choice.volume} of {path.name!r}", expected=f"1 to {volumes}", hint="--volume 1")
    if image.get_data_dtype().kind not in "biuf":
        raise ScanError(
            f"{path} has voxels of the type {image.header['datatype']} (colour or complex)",
            expected="one real number per voxel",
            hint="export the scan in grey values, or convert it again from DICOM",
        )
    check_size(path, shape, image.get_data_dtype().itemsize)
    return shape


def _scales(image: Any) -> bool:
    return (image.dataobj.slope, image.dataobj.inter) != (1, 0)


def _header_and_voxels(path: Path, volume: Volume) -> Any:
    """(D, H, W) as (i, j, k), (C, D, H, W) as (i, j, k, C), without scaling.

    Both forms of a NIfTI scan on its grid, otherwise the grid in sform.
    """
    import nibabel

    check_calibrated(path, volume)
    affine = _RAS_LPS @ volume.affine @ _IJK_DHW
    nifti: Any = nibabel.Nifti1Image
    image = nifti(volume.voxels.T, affine)
    source = volume.source or {}
    own = source.get("format") == "nifti" and np.array_equal(source["affine"], volume.affine)
    image.header.set_slope_inter(1, 0)
    if own and not source["contradiction"]:
        image = nifti(volume.voxels.T, None, image.header)
        put_fields(image.header, source["fields"])
        return image
    image.header.set_xyzt_units("mm")
    if own:
        # Only the form that was chosen: the other one would go on saying what is wrong.
        chosen = str(source["geometry"])
        image.header["descrip"] = f"geometry: the scan's {chosen}".encode()
        image.set_sform(affine, max(source["codes"]["sform"], 1) if chosen == "sform" else 0)
        image.set_qform(affine, max(source["codes"]["qform"], 1) if chosen == "qform" else 0, strip_shears=True)
        return image
    image.set_sform(affine, 1)
    # A quaternion cannot hold shear; code 0 sends every reader to sform.
    image.set_qform(affine, 0 if _sheared(affine) else 1, strip_shears=True)
    return image


def _write(path: Path, volume: Volume, comment: str = "") -> None:
    image = _header_and_voxels(path, volume)
    if comment:
        import nibabel

        image.header.extensions.append(nibabel.nifti1.Nifti1Extension(_COMMENT, comment.encode()))
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


FORMAT = Format(
    "nifti",
    (".nii", ".nii.gz"),
    "nifti",
    ("nibabel",),
    read,
    write_labels,
    write_maps,
    read_choice=read,
    write_regions=write_regions,
    read_regions=read_regions,
)
