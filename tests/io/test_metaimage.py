"""MetaImage: the voxels are where the same image has them in NRRD and NIfTI; nothing that ITK makes up is believed."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medattn_edge.errors import GeometryError, ScanError
from medattn_edge.io import read_volume

sitk: Any = pytest.importorskip("SimpleITK", reason="the extra itk is not installed")

A, B = 0.3, -0.2
TURN = np.array([[np.cos(A), -np.sin(A), 0], [np.sin(A), np.cos(A), 0], [0, 0, 1]]) @ np.array(
    [[np.cos(B), 0, np.sin(B)], [0, 1, 0], [-np.sin(B), 0, np.cos(B)]]
)


def image(dtype: str = "i2", vector: int = 0) -> Any:
    shape = (4, 5, 6, vector) if vector else (4, 5, 6)
    values = np.random.default_rng(0).integers(0, 200, shape).astype(dtype)
    made = sitk.GetImageFromArray(values, isVector=bool(vector))
    made.SetSpacing((0.75, 1.5, 3.0))
    made.SetOrigin((-100.5, 20.25, 7.0))
    made.SetDirection((TURN @ np.diag([1, -1, 1])).ravel())
    return made


@pytest.mark.parametrize("suffix", [".mha", ".mhd"])
@pytest.mark.parametrize("dtype", ["u1", "i2", "u2", "f4"])
@pytest.mark.parametrize("packed", [False, True])
def test_it_is_the_volume_that_nrrd_and_nifti_hold(tmp_path: Path, suffix: str, dtype: str, packed: bool) -> None:
    """The other two are read by other libraries: pynrrd and nibabel."""
    for name in (f"scan{suffix}", "scan.nrrd", "scan.nii.gz"):
        sitk.WriteImage(image(dtype), str(tmp_path / name), packed)
    volume = read_volume(tmp_path / f"scan{suffix}")
    for other in (read_volume(tmp_path / "scan.nrrd"), read_volume(tmp_path / "scan.nii.gz")):
        assert np.array_equal(volume.voxels, other.voxels)
        assert np.allclose(volume.affine, other.affine, atol=1e-4)
    assert volume.voxels.dtype == np.dtype(dtype)


def written(path: Path, **fields: str) -> Path:
    """A file made by hand, with its voxels behind the header."""
    header = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "TransformMatrix": "0 1 0 -1 0 0 0 0 1",
        "Offset": "10 20 30",
        "ElementSpacing": "2 3 4",
        "DimSize": "2 3 4",
        "ElementType": "MET_UCHAR",
        **fields,
        "ElementDataFile": fields.get("ElementDataFile", "LOCAL"),
    }
    lines = "".join(f"{name} = {value}\n" for name, value in header.items() if value)
    path.write_bytes(lines.encode() + (bytes(range(24)) if header["ElementDataFile"] == "LOCAL" else b""))
    return path


def test_a_header_made_by_hand_puts_every_voxel_in_its_place(tmp_path: Path) -> None:
    """TransformMatrix has where x, y and z run to, one after the other."""
    volume = read_volume(written(tmp_path / "a.mha"))
    assert np.array_equal(volume.voxels, np.arange(24).reshape(4, 3, 2))
    assert np.allclose(volume.point(0, 0, 1), (10, 20 + 2, 30))
    assert np.allclose(volume.point(0, 1, 0), (10 - 3, 20, 30))
    assert np.allclose(volume.point(1, 0, 0), (10, 20, 34))


def test_several_values_a_voxel_are_channels(tmp_path: Path) -> None:
    made = image("f4", vector=3)
    sitk.WriteImage(made, str(tmp_path / "a.mha"))
    assert np.array_equal(read_volume(tmp_path / "a.mha").voxels, np.moveaxis(sitk.GetArrayFromImage(made), -1, 0))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"TransformMatrix": ""}, "no orientation"),
        ({"Offset": ""}, "no offset"),
    ],
)
def test_a_header_that_does_not_say_where_the_voxels_are_is_refused(
    tmp_path: Path, fields: dict[str, str], words: str
) -> None:
    with pytest.raises(GeometryError, match=words):
        read_volume(written(tmp_path / "a.mha", **fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"ElementDataFile": "../secret.raw"},
        {"ElementDataFile": "/etc/passwd"},
        {"ElementDataFile": "LIST"},
        {"ElementDataFile": "slice%03d.raw 1 4 1"},
        {"ElementDataFile": "missing.raw"},
        {"NDims": "4", "DimSize": "2 3 2 2"},
        {"DimSize": "20 30 40"},
        {"ElementType": "MET_NOTHING"},
    ],
    ids=str,
)
def test_what_is_no_whole_scan_in_one_folder_is_refused(tmp_path: Path, fields: dict[str, str]) -> None:
    with pytest.raises((ScanError, GeometryError), match=r"a\.mhd") as raised:
        read_volume(written(tmp_path / "a.mhd", **fields))
    assert raised.value.hint


@pytest.mark.parametrize("data", [b"", b"no scan", b"NDims = 3\n", b"\0" * 100])
def test_what_is_no_meta_image_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.mha").write_bytes(data)
    with pytest.raises(ScanError, match=r"a\.mha"):
        read_volume(tmp_path / "a.mha")


@pytest.mark.parametrize("suffix", [".mha", ".mhd"])
@pytest.mark.parametrize("flag", ["BinaryDataByteOrderMSB", "ElementByteOrderMSB"])
def test_compressed_voxels_keep_their_byte_order(tmp_path: Path, suffix: str, flag: str) -> None:
    values = np.random.default_rng(0).integers(0, 30000, (4, 3, 2))
    packed = zlib.compress(values.astype(">i2").tobytes())
    fields = {"CompressedData": "True", "ElementType": "MET_SHORT", flag: "True"}
    path = tmp_path / f"a{suffix}"
    if suffix == ".mhd":
        (tmp_path / "a.zraw").write_bytes(packed)
        fields["ElementDataFile"] = "a.zraw"
    fields = {"BinaryDataByteOrderMSB": "False", **fields} if flag.startswith("Element") else fields
    written(path, **fields)
    path.write_bytes(path.read_bytes().split(b"LOCAL\n")[0] + (b"LOCAL\n" + packed if suffix == ".mha" else b""))
    assert np.array_equal(read_volume(path).voxels, values)


def test_a_header_in_front_of_compressed_voxels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScanError, match="HeaderSize = 7 in front of compressed voxels"):
        read_volume(written(tmp_path / "a.mha", CompressedData="True", HeaderSize="7"))
