"""The fields of a MetaImage header, one by one, and compressed voxels to their last byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medattn_edge.errors import MedattnError
from medattn_edge.io import read_volume

AFFINE = np.array([[0.0, 0, 1, 0], [0, 1, 0, 0], [3, 0, 0, 0], [0, 0, 0, 1]])
VOXELS = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)


def error_of(call: Any) -> str:
    """What was said, "" when nothing was."""
    try:
        call()
    except MedattnError as error:
        return str(error)
    return ""


def metaimage(path: Path, more: str = "", data: bytes = VOXELS.tobytes(), name: str = "LOCAL", **fields: str) -> Path:
    header = {"ObjectType": "Image", "NDims": "3", "BinaryData": "True", "TransformMatrix": "1 0 0 0 1 0 0 0 1",
              "Offset": "0 0 0", "ElementSpacing": "1 1 3", "DimSize": "4 3 2", "ElementType": "MET_UCHAR"}  # fmt: skip
    text = "".join(f"{key} = {value}\n" for key, value in (header | fields).items() if value)
    path.write_bytes(f"{text}{more}ElementDataFile = {name}\n".encode() + data)
    return path


@pytest.mark.parametrize("flag", ["True", "true", "T", "1", "False", "0", "no"])
def test_compressed_voxels_are_as_many_as_promised(tmp_path: Path, flag: str) -> None:
    import zlib

    pytest.importorskip("SimpleITK", reason="the extra itk is not installed")
    set_ = flag[0] in "Tt1"
    for less, said in ((0, ""), (1, "fewer"), (-1, "more")):
        data = VOXELS.tobytes()[: 24 - less] + bytes(max(0, -less))
        path = metaimage(tmp_path / "a.mha", f"CompressedData = {flag}\n", zlib.compress(data) if set_ else data)
        if set_:
            assert said in error_of(lambda path=path: read_volume(path))
        if not said:
            assert np.array_equal(read_volume(path).voxels, VOXELS)


def test_compressed_voxels_of_many_blocks_are_read_to_their_end(tmp_path: Path) -> None:
    import zlib

    pytest.importorskip("SimpleITK", reason="the extra itk is not installed")
    voxels = np.random.default_rng(0).integers(0, 255, (3, 1 << 10, 1 << 10)).astype(np.uint8)
    voxels[0] = 7
    path = metaimage(
        tmp_path / "a.mha", "CompressedData = True\n", zlib.compress(voxels.tobytes(), 1), DimSize="1024 1024 3"
    )
    assert np.array_equal(read_volume(path).voxels, voxels)
    path.write_bytes(path.read_bytes()[:-1])
    assert "compressed voxels end" in error_of(lambda: read_volume(path))


@pytest.mark.parametrize(
    ("fields", "name", "said"),
    [
        ({}, "other.raw", ""),
        ({}, "folder/other.raw", "keeps its voxels in"),
        ({}, "LIST", "keeps its voxels in"),
        ({}, "list of files", "keeps its voxels in"),
        ({}, "slice%d.raw", "keeps its voxels in"),
        ({"CompressedData": "True", "HeaderSize": "8"}, "LOCAL", "HeaderSize = 8"),
        ({"CompressedData": "True", "HeaderSize": "-1"}, "LOCAL", "HeaderSize = -1"),
        ({"NDims": "2"}, "LOCAL", "has 2 dimensions"),
        ({"NDims": ""}, "LOCAL", "has no dimensions"),
        ({"TransformMatrix": ""}, "LOCAL", "no orientation"),
        ({"Offset": ""}, "LOCAL", "no offset"),
        ({"Offset": "", "TransformMatrix": ""}, "LOCAL", "no orientation and no offset"),
        ({"TransformMatrix": "", "Rotation": "1 0 0 0 1 0 0 0 1"}, "LOCAL", ""),
        ({"TransformMatrix": "", "Orientation": "1 0 0 0 1 0 0 0 1"}, "LOCAL", ""),
        ({"Offset": "", "Position": "0 0 0"}, "LOCAL", ""),
        ({"Offset": "", "Origin": "0 0 0"}, "LOCAL", ""),
        ({"HeaderSize": "0"}, "LOCAL", ""),
    ],
)
def test_a_metaimage_says_where_it_is_and_has_its_voxels_beside_it(
    tmp_path: Path, fields: dict[str, str], name: str, said: str
) -> None:
    pytest.importorskip("SimpleITK", reason="the extra itk is not installed")
    (tmp_path / "other.raw").write_bytes(VOXELS.tobytes())
    data = VOXELS.tobytes() if name == "LOCAL" else b""
    path = metaimage(tmp_path / "a.mha", "", data, name, **fields)
    if said:
        assert said in error_of(lambda: read_volume(path))
    else:
        assert np.array_equal(read_volume(path).voxels, VOXELS)
