"""NRRD: spaces, channel axes, and what 3D Slicer writes and shows."""

from pathlib import Path

import nrrd
import numpy as np
import pytest
import slicerio

from medattn_edge.errors import GeometryError, ScanError
from medattn_edge.io import read_labels, read_volume, write_labels, write_maps
from medattn_edge.volume import Volume

# pynrrd, with which these tests write their files, asks for the time in a way that Python 3.12 advises against.
pytestmark = pytest.mark.filterwarnings("ignore:datetime.datetime.utcnow:DeprecationWarning")

DATA = Path(slicerio.__file__).parent / "data"
HEADER = {
    "space": "left-posterior-superior",
    "space directions": np.array([[0.7, 0, 0], [0, 0.8, 0], [0, 0, 3.0]]),
    "space origin": np.array([1.0, 2.0, 3.0]),
    "kinds": ["domain"] * 3,
}


def save(path, array, **changes):
    header = {key: value for key, value in {**HEADER, **changes}.items() if value is not None}
    nrrd.write(str(path), array, header, index_order="C")
    return path


@pytest.fixture
def scan():
    return np.random.default_rng(0).integers(-1000, 1000, (3, 4, 5)).astype(np.int16)


def test_every_voxel_is_where_the_header_says():
    """The x and y axes of this file are stored from left to right and from back to front."""
    volume = read_volume(DATA / "CTChest4.nrrd")
    array, header = nrrd.read(str(DATA / "CTChest4.nrrd"))
    assert volume.shape == (34, 128, 128)
    for i, j, k in [(0, 0, 0), (127, 3, 10), (50, 60, 33)]:
        assert volume.voxels[k, j, i] == array[i, j, k]
        there = header["space origin"] + np.array((i, j, k)) @ header["space directions"]
        assert np.allclose(volume.point(k, j, i), there)


def test_the_right_lung_is_on_the_patients_right():
    labels = read_labels(DATA / "Segmentation.seg.nrrd")
    right, left = (labels.point(*np.argwhere(labels.voxels == value).mean(axis=0)) for value in (5, 6))
    assert right[0] < 0 < left[0]
    turned = labels.to_lps()
    columns = [np.argwhere(turned.voxels == value)[:, 2].mean() for value in (5, 6)]
    assert columns[0] < columns[1]


def test_scan_and_segmentation_of_slicer_share_a_grid():
    scan, labels = read_volume(DATA / "CTChest4.nrrd"), read_labels(DATA / "Segmentation.seg.nrrd")
    assert np.array_equal(labels.affine, scan.affine)
    lungs = scan.voxels[(labels.voxels == 5) | (labels.voxels == 6)]
    assert -950 < np.median(lungs) < -600  # HU of aerated lung


@pytest.mark.parametrize(
    ("space", "signs"),
    [
        ("left-posterior-superior", (1, 1, 1)),
        ("LPS", (1, 1, 1)),
        ("Right-Anterior-Superior", (-1, -1, 1)),
        ("RAS", (-1, -1, 1)),
        ("left-anterior-superior", (1, -1, 1)),
        ("las", (1, -1, 1)),
    ],
)
def test_every_patient_space_becomes_lps(tmp_path, scan, space, signs):
    volume = read_volume(save(tmp_path / "scan.nrrd", scan, space=space))
    assert np.allclose(volume.point(0, 0, 0), np.multiply(signs, (1, 2, 3)))
    assert np.allclose(volume.point(1, 0, 0) - volume.point(0, 0, 0), (0, 0, 3))
    assert np.allclose(volume.point(0, 0, 1) - volume.point(0, 0, 0), (0.7 * signs[0], 0, 0))


def test_positions_are_in_mm_whatever_the_header_uses(tmp_path, scan):
    volume = read_volume(save(tmp_path / "scan.nrrd", scan, **{"space units": ["cm", "cm", "cm"]}))
    assert np.allclose(volume.spacing, (30, 8, 7))


@pytest.mark.parametrize(
    "changes",
    [
        {"space": None, "space directions": None, "space origin": None, "spacings": [1.0, 1.0, 1.0]},
        {"space": None, "space directions": None, "space origin": None},
        {"space": "scanner-xyz"},
        {"space": "3D-right-handed"},
        {"space origin": None},
        {"space units": ["parsec", "parsec", "parsec"]},
    ],
)
def test_a_header_that_does_not_say_where_left_is_is_refused(tmp_path, scan, changes):
    path = save(tmp_path / "scan.nrrd", scan, **changes)
    with pytest.raises(GeometryError, match="left") as caught:
        read_volume(path)
    assert "3D Slicer" in caught.value.hint


@pytest.mark.parametrize("axis", [0, 3])
def test_an_axis_without_direction_is_the_channel_axis(tmp_path, axis):
    """Header axis 0 is the fastest: the last one of the array."""
    channels = np.random.default_rng(0).random((2, 3, 4, 5)).astype(np.float32)
    directions = np.insert(HEADER["space directions"], axis, np.nan, axis=0)
    kinds = ["domain"] * 3
    kinds.insert(axis, "list")
    stored = channels if axis == 3 else np.moveaxis(channels, 0, -1)
    volume = read_volume(save(tmp_path / "scan.nrrd", stored, **{"space directions": directions, "kinds": kinds}))
    assert np.array_equal(volume.voxels, channels)
    assert np.allclose(volume.spacing, (3, 0.8, 0.7))


def test_a_time_series_is_refused(tmp_path):
    directions = np.insert(HEADER["space directions"], 3, np.nan, axis=0)
    path = save(
        tmp_path / "scan.nrrd",
        np.zeros((2, 3, 4, 5), np.int16),
        **{"space directions": directions, "kinds": ["domain"] * 3 + ["time"]},
    )
    with pytest.raises(ScanError, match="time"):
        read_volume(path)


def test_overlapping_segments_are_refused_with_the_way_out():
    with pytest.raises(ScanError, match="overlap") as caught:
        read_volume(DATA / "SegmentationOverlapping.seg.nrrd")
    assert "labelmap" in caught.value.hint


def test_voxels_in_another_file_are_never_opened(tmp_path, scan):
    path = save(tmp_path / "scan.nrrd", scan)
    header = path.read_bytes().split(b"\n\n")[0]
    path.write_bytes(header + b"\ndata file: /etc/hostname\n\n")
    with pytest.raises(ScanError, match="another file"):
        read_volume(path)


def test_big_endian_voxels_arrive_in_the_hosts_order(tmp_path, scan):
    volume = read_volume(save(tmp_path / "scan.nrrd", scan.astype(">i2")))
    assert volume.voxels.dtype.isnative
    assert np.array_equal(volume.voxels, scan)


def test_the_affine_comes_back_to_the_last_bit(tmp_path):
    labels = read_labels(DATA / "Segmentation.seg.nrrd")
    write_labels(tmp_path / "labels.nrrd", labels, [])
    assert np.array_equal(read_labels(tmp_path / "labels.nrrd").affine, labels.affine)


def test_what_is_written_is_what_pynrrd_reads(tmp_path):
    labels = read_labels(DATA / "Segmentation.seg.nrrd")
    write_labels(tmp_path / "labels.nrrd", labels, [])
    ours, header = nrrd.read(str(tmp_path / "labels.nrrd"))
    theirs, original = nrrd.read(str(DATA / "Segmentation.seg.nrrd"))
    assert np.array_equal(ours, theirs)
    assert header["space"] == original["space"]
    assert np.array_equal(header["space directions"], original["space directions"])
    assert np.array_equal(header["space origin"], original["space origin"])
    assert not [key for key in header if key.startswith("Segment")]


def test_slicers_own_library_finds_every_segment_by_its_name(tmp_path):
    labels = Volume(np.zeros((3, 4, 5), np.uint8), read_volume(DATA / "CTChest4.nrrd").affine)
    labels.voxels[1, 2:4, 3] = 1
    labels.voxels[2, 0, 0] = 7
    write_labels(tmp_path / "labels.seg.nrrd", labels, ["background", "right lung", "no such\nthing"])
    segmentation = slicerio.read_segmentation(str(tmp_path / "labels.seg.nrrd"))
    found = {segment["labelValue"]: segment for segment in segmentation["segments"]}
    assert {value: segment["name"] for value, segment in found.items()} == {
        1: "right lung",
        2: "no such thing",
        7: "label_7",
    }
    assert found[1]["extent"] == [3, 3, 2, 3, 1, 1]
    assert found[2]["extent"] == [0, -1, 0, -1, 0, -1]
    assert {segment["layer"] for segment in found.values()} == {0}
    assert len({tuple(segment["color"]) for segment in found.values()}) == 3
    assert np.array_equal(segmentation["voxels"], labels.voxels.T)


def test_a_name_beyond_ascii_is_kept(tmp_path):
    labels = Volume(np.ones((1, 2, 2), np.uint8), np.eye(4))
    write_labels(tmp_path / "labels.seg.nrrd", labels, ["background", "Tumör"])
    assert "Segment0_Name:=Tumör\n".encode() in (tmp_path / "labels.seg.nrrd").read_bytes()
    assert np.array_equal(read_labels(tmp_path / "labels.seg.nrrd").voxels, labels.voxels)


def test_maps_are_a_list_axis_with_names(tmp_path):
    maps = np.random.default_rng(0).random((2, 3, 4, 5)).astype(np.float32)
    write_maps(tmp_path / "maps.nrrd", Volume(maps, np.eye(4)), ["background", "lung"])
    array, header = nrrd.read(str(tmp_path / "maps.nrrd"), index_order="C")
    assert np.array_equal(array, maps)
    assert header["kinds"] == ["domain", "domain", "domain", "list"]
    assert header["names"] == "background|lung"


def test_a_picture_of_two_axes_is_refused_in_numbers_that_people_write(tmp_path):
    flat = {"space directions": np.array([[0.7, 0, 0], [0, 0.8, 0]]), "kinds": ["domain"] * 2}
    with pytest.raises(ScanError, match=r"has 2 axes, 5 x 4, 0 of them not in space"):
        read_volume(save(tmp_path / "flat.nrrd", np.zeros((4, 5), np.int16), **flat))
