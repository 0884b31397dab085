"""FreeSurfer's volumes (.mgh, .mgz), through nibabel. The file's array is (i, j, k[, frame]) in RAS mm."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from medattn_edge.errors import GeometryError
from medattn_edge.io.bounds import check_size, read_to_end
from medattn_edge.io.format import Format, unreadable
from medattn_edge.volume import Array, Volume

_RAS_LPS = np.diag((-1.0, -1.0, 1.0, 1.0))
_IJK_DHW = np.eye(4)[[2, 1, 0, 3]]
_FLAG = 28  # where the goodRASFlag lies
_HEADER_BYTES, _FOOTER_BYTES = 284, 20
_SIZES = {0: 1, 1: 4, 3: 4, 4: 2, 10: 2}  # bytes of a voxel, by the code of its type
# What nibabel raises for damaged files, beside its own errors.
_FAILURES = (
    struct.error,
    OSError,
    EOFError,
    zlib.error,
    MemoryError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    ArithmeticError,
)


def read(path: Path) -> Volume:
    """A volume (D, H, W) in the file's own type; several frames are channels (C, D, H, W).

    Raises:
        ScanError: for a file that cannot be read.
        GeometryError: when the file does not say where the patient's right is.
    """
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.freesurfer.mghformat import MGHError
    from nibabel.spatialimages import HeaderDataError

    try:
        # Read here: nibabel leaves a damaged file open, and puts directions of its own where the file has none.
        with gzip.open(path) if path.name.lower().endswith(".mgz") else path.open("rb") as file:
            data = _bounded(path, cast("BinaryIO", file))
        placed = struct.unpack_from(">h", data, _FLAG)[0] != 0
        image: Any = nibabel.MGHImage.from_bytes(data)
        stored: Array = np.asarray(image.dataobj)
    except (*_FAILURES, ImageFileError, MGHError, HeaderDataError) as error:
        raise unreadable(path, "FreeSurfer .mgz", error) from error
    if not placed:
        raise GeometryError(
            f"{path} does not say which side is left: its goodRASFlag is 0",
            expected="a volume with directions, as FreeSurfer writes it",
            hint="mri_convert it again from DICOM",
        )
    stored = stored.reshape((*stored.shape, 1)[:4])
    voxels = stored.T if stored.shape[3] > 1 else stored[..., 0].T
    affine = _RAS_LPS @ image.affine @ _IJK_DHW
    return Volume(voxels.astype(voxels.dtype.newbyteorder("="), copy=False), affine)


def _bounded(path: Path, stream: BinaryIO) -> bytes:
    """The file's header, the voxels that it promises and the footer; what is behind is read for its check sum."""
    header = stream.read(_HEADER_BYTES)
    _, *sizes, kind = struct.unpack_from(">6i", header)
    size = check_size(path, sizes, _SIZES.get(kind, 1))  # of another type nothing is read
    voxels = stream.read(size)
    if len(voxels) < size:
        raise EOFError(f"{len(voxels):,} bytes of voxels where {size:,} are needed")
    footer = stream.read(_FOOTER_BYTES)
    read_to_end(path, stream)
    return header + voxels + footer


FORMAT = Format("mgh", (".mgh", ".mgz"), "nifti", ("nibabel",), read, None, None)
