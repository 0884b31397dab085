"""NumPy archives: `voxels` (H, W), (D, H, W) or (C, D, H, W), and `affine` 4x4 from (d, h, w) to LPS mm."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medattn_edge.atomic import replacing
from medattn_edge.errors import ScanError
from medattn_edge.io.bounds import check_size
from medattn_edge.io.format import PICTURE_AFFINE, Format, Regions, unreadable
from medattn_edge.volume import Array, Volume

_FAILURES = (OSError, ValueError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error)
_HINT = "numpy.savez('scan.npz', voxels=voxels, affine=affine)"


def read(path: Path) -> Volume:
    """The volume of an archive; without `affine` it is uncalibrated. Nothing in the file is ever executed."""
    voxels, affine, _ = _arrays(path)
    if voxels is None or voxels.dtype.kind not in "biuf" or voxels.ndim not in (2, 3, 4):
        problem = "has no array `voxels`" if voxels is None else f"has voxels {voxels.dtype} of shape {voxels.shape}"
        raise ScanError(
            f"{path} {problem}", expected="real numbers of shape (H, W), (D, H, W) or (C, D, H, W)", hint=_HINT
        )
    voxels = voxels[None] if voxels.ndim == 2 else voxels
    if affine is None:
        return Volume(voxels, PICTURE_AFFINE, calibrated=False)
    if affine.dtype.kind not in "iuf":
        raise ScanError(f"{path} has an affine of type {affine.dtype}", expected="4x4 real numbers", hint=_HINT)
    return Volume(voxels, affine)


def write_labels(path: Path, volume: Volume, names: Sequence[str]) -> None:
    """`voxels`, `affine` unless uncalibrated, and `names`."""
    _write(path, volume, names)


def write_maps(path: Path, volume: Volume, names: Sequence[str]) -> None:
    """`voxels` (C, D, H, W), `affine` unless uncalibrated, and `names`."""
    _write(path, volume, names)


def write_regions(path: Path, volume: Volume, names: Sequence[str]) -> None:
    """`voxels` (K, D, H, W), `affine` unless uncalibrated, and `names`."""
    _write(path, volume, names)


def read_regions(path: Path) -> Regions | None:
    """Maps (K, D, H, W) and what `names` says of them, when there is one for each."""
    volume, names = read(path), _arrays(path)[2]
    if volume.voxels.ndim != 4:
        return None
    if names is None or names.dtype.kind != "U" or names.shape != (volume.channels,):
        return volume, ("",) * volume.channels
    return volume, tuple(map(str, names))


def _arrays(path: Path) -> tuple[Array | None, Array | None, Array | None]:
    try:
        # An open file, because numpy leaves the one that it opens itself open when it is no archive.
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("a single array, not an archive of named arrays")
            with archive:
                for name in ("voxels", "affine", "names"):
                    _check_promise(path, archive, name)
                return archive.get("voxels"), archive.get("affine"), archive.get("names")
    except _FAILURES as error:
        raise unreadable(path, "NumPy .npz", error) from error


def _check_promise(path: Path, archive: Any, name: str) -> None:
    """Check what an array's own header says of its size, before anything is reserved for it; raises ScanError."""
    member = next((one for one in (f"{name}.npy", name) if one in archive.zip.namelist()), None)
    if member is None:
        return
    with archive.zip.open(member) as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    if 0 not in shape:
        check_size(path, shape or (1,), dtype.itemsize)


def _write(path: Path, volume: Volume, names: Sequence[str]) -> None:
    arrays: dict[str, Any] = {"voxels": volume.voxels, "names": np.array(names, dtype=np.str_)}
    if volume.calibrated:
        arrays["affine"] = volume.affine
    # An open file, because numpy appends .npz to a name that ends in .NPZ.
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


FORMAT = Format(
    "numpy", (".npz",), "", (), read, write_labels, write_maps, write_regions=write_regions, read_regions=read_regions
)
