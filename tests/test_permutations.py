"""Orders that are not their own inverse: applied twice, forwards and backwards, they give three different answers.

An exchange of two axes, or of two slices, hides a permutation that is applied the wrong way round.
"""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medattn_edge.inference.preprocess import labels_on_image, prepare
from medattn_edge.io import read_labels, read_volume, write_labels
from medattn_edge.spec import Intensity
from medattn_edge.volume import Array, Volume
from tests.support.sessions import make_spec

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
pytest.importorskip("highdicom", reason="the extra dicom is not installed")

from pydicom.sequence import Sequence  # noqa: E402

from medattn_edge.io.dicom.seg import KINDS, Algorithm, write_seg  # noqa: E402
from medattn_edge.io.dicom.volume import Series, find_series, read_series  # noqa: E402
from tests.support.dicom_phantoms import make_series, real_ct, save  # noqa: E402

INTERLEAVED = [0, 2, 4, 1, 3, 5]  # frames 1 3 5 2 4 6
ORDERS = [INTERLEAVED, [3, 0, 5, 1, 4, 2], [1, 2, 3, 4, 5, 0]]
SCAN = real_ct()
CODES = ["".join(code) for axes in permutations(("LR", "PA", "SI")) for code in product(*axes)]
CYCLIC = ["PSL", "SLP", "AIR", "IRA", "ASR"]  # W, H and D each become another one


def numbered(shape: tuple[int, int, int] = (3, 4, 5)) -> Volume:
    """Every voxel its own number, on a grid of three spacings."""
    return Volume(np.arange(np.prod(shape), dtype=np.int16).reshape(shape), np.array(SCAN.affine))


def test_none_of_these_orders_is_its_own_inverse() -> None:
    for order in ORDERS:
        assert [order[index] for index in order] != sorted(order)


def series_of(folder: Path, order: list[int], *, enhanced: bool) -> Series:
    """The slices of SCAN in an order: as frames of one object, or as files whose names and numbers have it."""
    folder.mkdir()
    if enhanced:
        (dataset,) = make_series(SCAN.voxels, SCAN.affine, enhanced=True)
        groups = dataset.PerFrameFunctionalGroupsSequence
        dataset.PerFrameFunctionalGroupsSequence = Sequence([groups[index] for index in order])
        dataset.PixelData = SCAN.voxels[order].astype("<i2").tobytes()
        save(folder / "scan.dcm", dataset)
    else:
        datasets = make_series(SCAN.voxels, SCAN.affine)
        for place, index in enumerate(order):
            datasets[index].InstanceNumber = str(place + 1)
            save(folder / f"{place}.dcm", datasets[index])
    (series,) = find_series(folder)
    return series


def slice_labels() -> Volume:
    """A square that is wider in every slice, so that no two slices are alike; none in the first."""
    labels = np.zeros(SCAN.shape, np.uint8)
    for index in range(1, len(labels)):
        labels[index, 3 : 4 + 3 * index, 5 : 7 + index] = 1
    return Volume(labels, SCAN.affine)


@pytest.mark.parametrize("enhanced", [True, False], ids=["enhanced", "single"])
@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_slices_in_any_order_are_read_where_they_lie(order: list[int], enhanced: bool, tmp_path: Path) -> None:
    series = series_of(tmp_path / "s", order, enhanced=enhanced)
    found = read_series(series)
    assert np.array_equal(found.voxels, SCAN.voxels)
    assert np.allclose(found.affine, SCAN.affine)
    if enhanced:
        assert [frame.frame for frame in series.frames] == [order.index(index) for index in range(6)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("enhanced", [True, False], ids=["enhanced", "single"])
@pytest.mark.parametrize("order", ORDERS[:2], ids=str)
def test_labels_lie_on_the_slices_that_they_were_drawn_on(
    order: list[int], enhanced: bool, kind: str, tmp_path: Path
) -> None:
    """Every frame of the segmentation says where it lies, and which frame of the scan it was drawn on."""
    series, labels = series_of(tmp_path / "s", order, enhanced=enhanced), slice_labels()
    write_seg(tmp_path / "seg.dcm", labels, ("background", "organ"), series, Algorithm("net", "1", "5" * 64), kind=kind)
    seg = pydicom.dcmread(tmp_path / "seg.dcm")
    found = np.zeros(labels.shape, np.uint8)
    for groups, pixels in zip(seg.PerFrameFunctionalGroupsSequence, seg.pixel_array, strict=True):
        position = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        index = round(float(SCAN.index(position)[0]))
        found[index] = pixels > 0
        [source] = groups.DerivationImageSequence[0].SourceImageSequence
        if enhanced:
            assert int(source.ReferencedFrameNumber) == order.index(index) + 1
        else:
            assert source.ReferencedSOPInstanceUID == series.frames[index].sop_instance_uid
            path = next(path for path in series.files if path.stem == str(order.index(index)))
            assert pydicom.dcmread(path).SOPInstanceUID == source.ReferencedSOPInstanceUID
    assert np.array_equal(found, labels.voxels)


def same_points(one: Volume, other: Volume) -> bool:
    """Whether each voxel of the one lies, with its number, where the other has it."""
    for index in product(*map(range, one.shape)):
        there = other.index(one.point(*index))
        nearest = tuple(round(float(value)) for value in there)
        if not np.allclose(there, nearest, atol=1e-6) or other.voxels[nearest] != one.voxels[index]:
            return False
    return True


@pytest.mark.parametrize("code", CODES)
def test_every_orientation_keeps_each_voxel_where_it_is(code: str) -> None:
    volume = numbered()
    turned = volume.oriented(code)
    assert same_points(volume, turned)
    towards = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1)}
    for axis, letter in enumerate(reversed(code)):  # D is the third letter
        patient_axis, sign = towards[letter]
        step = turned.affine[:3, axis]
        assert step[patient_axis] * sign > 0.9 * np.linalg.norm(step)
    assert np.array_equal(turned.like(volume).voxels, volume.voxels)
    assert np.array_equal(turned.oriented("ASR").like(volume.oriented("SLP")).voxels, volume.oriented("SLP").voxels)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".seg.nrrd", ".npz"])
@pytest.mark.parametrize("code", CYCLIC)
def test_labels_written_in_any_axis_order_are_read_where_they_were(suffix: str, code: str, tmp_path: Path) -> None:
    volume = numbered()
    labels = volume.with_voxels((volume.voxels % 3).astype(np.uint8)).oriented(code)
    write_labels(tmp_path / f"labels{suffix}", labels, ("background", "one", "two"))
    read = read_labels(tmp_path / f"labels{suffix}")
    read = read[0] if isinstance(read, tuple) else read
    assert same_points(labels, read)


@pytest.mark.parametrize("axes", ["".join(order) for order in permutations("DHW")])
@pytest.mark.parametrize("code", ["LPS", "SLP", "AIR"])
def test_what_a_3d_network_sees_comes_back_to_its_voxel(axes: str, code: str) -> None:
    round_trip(make_spec(patch=(4, 4, 4), axes=axes, orientation=code, intensity=Intensity()), axes, code)


@pytest.mark.parametrize("axes", ["HW", "WH"])
@pytest.mark.parametrize("code", ["LPS", "LSP", "PSL", "SLP", "ASR", "IRA"])
def test_what_a_2d_network_sees_of_any_plane_comes_back_to_its_voxel(axes: str, code: str) -> None:
    round_trip(make_spec(patch=(4, 4), axes=axes, orientation=code, intensity=Intensity()), "D" + axes, code)


def round_trip(spec: Any, axes: str, code: str) -> None:
    volume = numbered().oriented("SLP")
    prepared = prepare(volume, spec)
    seen: Array = prepared.image[0]
    expected = volume.oriented(code).voxels.transpose(*("DHW".index(axis) for axis in axes))
    assert np.array_equal(seen, expected)
    assert np.array_equal(labels_on_image(volume, prepared), expected)
    back = np.empty(prepared.oriented.shape, np.int16)
    prepared.in_network_order(back)[...] = seen
    restored = prepared.on_scan(back)
    assert np.array_equal(restored.voxels, volume.voxels)
    assert np.array_equal(restored.affine, volume.affine)


def test_a_scan_of_cyclic_axes_is_read_where_nibabel_has_it(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel", reason="the extra nifti is not installed")
    voxels = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    affine = np.array([[0, 0, 3.0, 7], [2.0, 0, 0, -5], [0, 1.5, 0, 9], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(voxels, affine), tmp_path / "scan.nii")
    read = read_volume(tmp_path / "scan.nii")
    for index in product(*map(range, voxels.shape)):
        right, front, up, _ = affine @ (*index, 1)
        d, h, w = (round(float(value)) for value in read.index(np.array((-right, -front, up))))
        assert read.voxels[d, h, w] == voxels[index]
