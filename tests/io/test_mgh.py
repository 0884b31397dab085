"""FreeSurfer's volumes, written here byte by byte as its documentation has them."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from medattn_edge.errors import GeometryError, ScanError
from medattn_edge.io import read_volume

TYPES = {np.dtype("u1"): 0, np.dtype("i4"): 1, np.dtype("f4"): 3, np.dtype("i2"): 4}
# Columns: where i, j and k run to in RAS; a coronal volume, as FreeSurfer's own are, turned a little.
A = 0.25
DIRECTIONS = np.array([[-np.cos(A), 0, np.sin(A)], [-np.sin(A), 0, -np.cos(A)], [0, -1, 0]])
STEPS = np.array([1.0, 1.5, 0.75])
CENTRE = np.array([3.5, -20.25, 11.0])


def mgh(voxels: np.ndarray, *, placed: int = 1) -> bytes:
    """The file of an array (i, j, k[, frame])."""
    shape = (*voxels.shape, 1)[:4]
    header = struct.pack(">7i", 1, *shape, TYPES[voxels.dtype], 0)
    header += struct.pack(">h", placed)
    header += struct.pack(">3f", *STEPS) + struct.pack(">9f", *DIRECTIONS.T.ravel()) + struct.pack(">3f", *CENTRE)
    return header.ljust(284, b"\0") + voxels.astype(voxels.dtype.newbyteorder(">")).tobytes(order="F")


def voxels(dtype: str = "i2", frames: int = 1) -> np.ndarray:
    values = np.random.default_rng(0).integers(0, 200, (4, 5, 6, frames)).astype(dtype)
    return values if frames > 1 else values[..., 0]


@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "f4"])
@pytest.mark.parametrize("suffix", [".mgh", ".mgz"])
def test_every_voxel_has_its_value_where_freesurfer_puts_it(tmp_path: Path, dtype: str, suffix: str) -> None:
    stored = voxels(dtype)
    data = mgh(stored)
    (tmp_path / f"t1{suffix}").write_bytes(gzip.compress(data) if suffix == ".mgz" else data)
    volume = read_volume(tmp_path / f"t1{suffix}")
    assert volume.voxels.dtype == np.dtype(dtype)
    for i, j, k in np.ndindex(stored.shape):
        assert volume.voxels[k, j, i] == stored[i, j, k]
        # The volume's centre is the voxel (n / 2), not ((n - 1) / 2).
        ras = DIRECTIONS @ (STEPS * (np.array([i, j, k]) - np.array(stored.shape) / 2)) + CENTRE
        assert np.allclose(volume.point(k, j, i), ras * [-1, -1, 1], atol=1e-4)


def test_frames_are_channels(tmp_path: Path) -> None:
    stored = voxels(frames=3)
    (tmp_path / "f.mgh").write_bytes(mgh(stored))
    assert np.array_equal(read_volume(tmp_path / "f.mgh").voxels, stored.T)


def test_a_volume_without_directions_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f.mgz").write_bytes(gzip.compress(mgh(voxels(), placed=0)))
    with pytest.raises(GeometryError, match="goodRASFlag"):
        read_volume(tmp_path / "f.mgz")


@pytest.mark.parametrize(
    "data",
    [b"", b"no scan", mgh(voxels())[:300], gzip.compress(mgh(voxels()))[:80], struct.pack(">7i", 1, 2, 2, 2, 1, 77, 0)],
    ids=["empty", "text", "cut", "cut gzip", "unknown type"],
)
@pytest.mark.parametrize("suffix", [".mgh", ".mgz"])
def test_what_is_no_whole_volume_is_refused(tmp_path: Path, data: bytes, suffix: str) -> None:
    (tmp_path / f"f{suffix}").write_bytes(data)
    with pytest.raises((ScanError, GeometryError), match=r"f\.mg"):
        read_volume(tmp_path / f"f{suffix}")
