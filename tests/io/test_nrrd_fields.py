"""The fields of an NRRD header, one by one: read, refused, and written as text."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medattn_edge.errors import GeometryError, MedattnError, ScanError
from medattn_edge.io import read_volume, write_labels, write_regions
from medattn_edge.io.nrrd import FORMAT as NRRD
from medattn_edge.volume import Volume

AFFINE = np.array([[0.0, 0, 1, 0], [0, 1, 0, 0], [3, 0, 0, 0], [0, 0, 0, 1]])
VOXELS = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)


def error_of(call: Any) -> str:
    """What was said, "" when nothing was."""
    try:
        call()
    except MedattnError as error:
        return str(error)
    return ""


def nrrd_file(path: Path, more: str = "", voxels: np.ndarray = VOXELS, **fields: str) -> Path:
    header = {
        "type": {1: "uint8", 2: "short"}[voxels.itemsize], "dimension": str(voxels.ndim), "space": "LPS",
        "sizes": " ".join(map(str, voxels.shape[::-1])), "encoding": "raw", "endian": "little",
        "space directions": " ".join(["(1,0,0) (0,1,0) (0,0,3)"] + ["none"] * (voxels.ndim - 3)),
        "space origin": "(0,0,0)",
    }  # fmt: skip
    text = "".join(f"{key}: {value}\n" for key, value in (header | fields).items() if value)
    path.write_bytes(f"NRRD0005\n{text}{more}\n".encode() + voxels.tobytes())
    return path


@pytest.mark.parametrize(
    ("more", "layers", "said"),
    [
        ("Segment0_Layer:=0\nSegment1_Layer:=0\n", 1, ""),
        ("Segment0_Layer:=0\nSegment1_Layer:=1\n", 1, "in 2 layers"),
        ("Segment0_Layer:=0\nSegment1_Layer:=1\nSegment2_Layer:=2\n", 1, "in 3 layers"),
        ("Segment0_ID:=a\n", 2, "in 1 layers"),
        ("Segment0_ID:=a\nSegment0_Layer:=0\n", 2, "in 1 layers"),
        ("Segment0_ID:=a\n", 1, ""),
        ("Segment1_ID:=a\n", 2, ""),
    ],
)
def test_segments_in_several_layers_overlap(tmp_path: Path, more: str, layers: int, said: str) -> None:
    voxels = np.stack([VOXELS] * layers) if layers > 1 else VOXELS
    error = error_of(lambda: read_volume(nrrd_file(tmp_path / "a.nrrd", more, voxels)))
    assert (said in error) if said else error == ""


@pytest.mark.parametrize(
    ("layer", "found"), [(0, 1), (1, 1), (2, None), (-1, None)], ids=["first", "second", "beyond", "in front"]
)
def test_a_segment_lies_in_a_layer_that_is_there(tmp_path: Path, layer: int, found: int | None) -> None:
    voxels = np.stack([VOXELS, VOXELS + 1])
    more = f"Segment0_ID:=a\nSegment0_Name:=liver\nSegment0_Layer:={layer}\nSegment0_LabelValue:=5\n"
    path = nrrd_file(tmp_path / "a.nrrd", more, voxels)
    assert NRRD.read_regions is not None
    if found is None:
        with pytest.raises(ScanError, match="the segment liver in a layer that is not there") as caught:
            NRRD.read_regions(path)
        assert "2 layers at most" in caught.value.expected
        return
    regions = NRRD.read_regions(path)
    assert regions is not None
    assert regions[1] == ("liver",)
    assert np.array_equal(regions[0].voxels[0], voxels[layer] == 5)
    plain = nrrd_file(tmp_path / "b.nrrd", "Segment0_ID:=a\n")
    regions = NRRD.read_regions(plain)
    assert regions is not None
    assert np.array_equal(regions[0].voxels[0], VOXELS == 1)  # what Slicer leaves out: layer 0, value 1
    assert regions[1] == ("",)


@pytest.mark.parametrize("key", ["line skip", "lineskip", "byte skip", "byteskip"])
@pytest.mark.parametrize(("skip", "good"), [("0", True), ("1", False)])
def test_voxels_begin_behind_the_header(tmp_path: Path, key: str, skip: str, good: bool) -> None:
    error = error_of(lambda: read_volume(nrrd_file(tmp_path / "a.nrrd", **{key: skip})))
    assert (f"{key}: {skip}" in error) is not good


@pytest.mark.parametrize(
    ("unit", "factor"), [("mm", 1), ("MM", 1), ("cm", 10), ("m", 1000), ("um", 0.001), ("inch", None)]
)
def test_each_axis_of_space_has_its_own_unit(tmp_path: Path, unit: str, factor: float | None) -> None:
    for axis in range(3):
        units = ['"mm"'] * 3
        units[axis] = f'"{unit}"'
        path = nrrd_file(tmp_path / "a.nrrd", **{"space units": " ".join(units), "space origin": "(5,6,7)"})
        if factor is None:
            with pytest.raises(GeometryError, match="where the patient's left is"):
                read_volume(path)
            continue
        expected = np.array([5.0, 6, 7])
        expected[axis] *= factor
        assert np.allclose(read_volume(path).affine[:3, 3], expected)
        assert np.allclose(read_volume(path).spacing, [step * (factor if axis == 2 - at else 1) for at, step in
                                                       enumerate((3, 1, 1))])  # fmt: skip


@pytest.mark.parametrize("suffix", [".nrrd", ".seg.nrrd"])
def test_a_written_header_is_this_text(tmp_path: Path, suffix: str) -> None:
    """pynrrd and Slicer read it, and the same labels are the same bytes."""
    labels = Volume((VOXELS == 5).astype(np.uint8) + 2 * (VOXELS > 20).astype(np.uint8), AFFINE)
    write_labels(tmp_path / f"a{suffix}", labels, ["background", "a\nb"])
    text, packed = (tmp_path / f"a{suffix}").read_bytes().split(b"\n\n", 1)
    lines = text.decode().split("\n")
    assert lines[:10] == [
        "NRRD0005", "type: uint8", "dimension: 3", "space: left-posterior-superior", "sizes: 4 3 2",
        "space directions: (1,0,0) (0,1,0) (0,0,3)", "kinds: domain domain domain", "endian: little",
        "encoding: gzip", "space origin: (0,0,0)",
    ]  # fmt: skip
    assert gzip.decompress(packed) == labels.voxels.tobytes()
    assert packed[4:8] == bytes(4)  # no time of writing
    segments = [
        "Segmentation_ContainedRepresentationNames:=Binary labelmap|",
        "Segmentation_MasterRepresentation:=Binary labelmap",
        "Segmentation_ReferenceImageExtentOffset:=0 0 0",
        *("Segment0_ID:=Segment_1", "Segment0_Name:=a b", "Segment0_LabelValue:=1", "Segment0_Layer:=0"),
        *("Segment0_Extent:=1 1 1 1 0 0", "Segment0_Color:=1 0.768627 0"),
        *("Segment1_ID:=Segment_2", "Segment1_Name:=label_2", "Segment1_LabelValue:=2", "Segment1_Layer:=0"),
        *("Segment1_Extent:=1 3 2 2 1 1", "Segment1_Color:=0 0.745098 1"),
    ]
    assert lines[10:] == (segments if suffix == ".seg.nrrd" else [])


def test_regions_in_layers_have_the_fastest_axis_and_maps_the_slowest(tmp_path: Path) -> None:
    regions = Volume(np.stack([VOXELS > 20, VOXELS == 5]).astype(np.uint8), AFFINE)
    write_regions(tmp_path / "a.seg.nrrd", regions, ["one", "two"])
    write_regions(tmp_path / "a.nrrd", regions, ["one", "two"])
    layers, maps = (path.read_bytes().split(b"\n\n", 1) for path in (tmp_path / "a.seg.nrrd", tmp_path / "a.nrrd"))
    for lines, order in ((layers[0], "list first"), (maps[0], "list last")):
        text = lines.decode().split("\n")
        space, kinds = ["(1,0,0)", "(0,1,0)", "(0,0,3)"], ["domain"] * 3
        first = order == "list first"
        assert f"sizes: {'2 4 3 2' if first else '4 3 2 2'}" in text
        assert f"space directions: {' '.join(['none', *space] if first else [*space, 'none'])}" in text
        assert f"kinds: {' '.join(['list', *kinds] if first else [*kinds, 'list'])}" in text
    assert gzip.decompress(layers[1]) == np.moveaxis(regions.voxels, 0, -1).tobytes()
    assert gzip.decompress(maps[1]) == regions.voxels.tobytes()
    for number, extent in enumerate(("1 3 2 2 1 1", "1 1 1 1 0 0")):
        wanted = {"ID": f"Segment_{number + 1}", "LabelValue": "1", "Layer": str(number), "Extent": extent}
        assert all(f"Segment{number}_{key}:={value}\n" in layers[0].decode() for key, value in wanted.items())
