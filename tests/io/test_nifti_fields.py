"""The fields of a NIfTI header, one by one: what is read of them, and what is written into them."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medattn_edge.errors import GeometryError, ScanError, UsageError
from medattn_edge.io import read_labels, read_volume, write_labels, write_maps, write_regions
from medattn_edge.io.nifti import FORMAT
from medattn_edge.io.nifti_forms import forms_of
from medattn_edge.volume import Volume

nibabel: Any = pytest.importorskip("nibabel", reason="the extra nifti is not installed")

AFFINE = np.array([[0.0, 0, 1, 5], [0, 1.5, 0, 6], [3, 0, 0, 7], [0, 0, 0, 1]])
VOXELS = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
RAS = np.array([[-1.0, 0, 0, -5], [0, -1.5, 0, -6], [0, 0, 3, 7], [0, 0, 0, 1]])


def image(voxels: np.ndarray = VOXELS.T, kind: Any = None, codes: tuple[int, int] = (1, 1)) -> Any:
    made = (kind or nibabel.Nifti1Image)(voxels, RAS)
    made.set_sform(RAS, codes[0])
    made.set_qform(RAS, codes[1])
    return made


def saved(made: Any, path: Path) -> Path:
    made.to_filename(path)
    return path


# ---------------------------------------------------------------------------------------------------------------- read


@pytest.mark.parametrize("kind", ["Nifti1Image", "Nifti2Image"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_both_versions_are_read_in_both_orders_of_their_bytes(tmp_path: Path, kind: str, order: str) -> None:
    made = image(VOXELS.T.astype(np.int16), getattr(nibabel, kind))
    swapped = type(made)(made.get_fdata().astype(np.int16), RAS, made.header.as_byteswapped(order))
    (tmp_path / "a.nii").write_bytes(swapped.to_bytes())
    length = {"Nifti1Image": 348, "Nifti2Image": 540}[kind]
    assert (tmp_path / "a.nii").read_bytes()[:4] == struct.pack(f"{order}i", length)
    volume = read_volume(tmp_path / "a.nii")
    assert np.array_equal(volume.voxels, VOXELS)
    assert np.allclose(volume.affine, AFFINE)
    (tmp_path / "a.nii").write_bytes(struct.pack(f"{order}i", length + 1) + swapped.to_bytes()[4:])
    with pytest.raises(ScanError, match="length of a NIfTI header"):
        read_volume(tmp_path / "a.nii")


@pytest.mark.parametrize(("slope", "inter"), [(1, 0), (2, 0), (1, 5), (0.5, -1)])
def test_either_half_of_the_scaling_makes_values_float(tmp_path: Path, slope: float, inter: float) -> None:
    made = image()
    made.to_filename(tmp_path / "a.nii")
    data = bytearray((tmp_path / "a.nii").read_bytes())
    struct.pack_into("<2f", data, 112, slope, inter)
    (tmp_path / "a.nii").write_bytes(data)
    volume = read_volume(tmp_path / "a.nii")
    assert volume.voxels.dtype == (np.uint8 if (slope, inter) == (1, 0) else np.float32)
    assert np.array_equal(volume.voxels, VOXELS * np.float32(slope) + np.float32(inter))


@pytest.mark.parametrize(
    ("shape", "good"),
    [((4,), False), ((4, 3), True), ((4, 3, 2), True), ((4, 3, 2, 1), True), ((4, 3, 2, 5), True),
     ((4, 3, 2, 1, 5), True), ((4, 3, 2, 5, 1), True), ((4, 3, 2, 5, 2), False)],
)  # fmt: skip
def test_volumes_lie_along_one_axis(tmp_path: Path, shape: tuple[int, ...], good: bool) -> None:
    values = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    path = saved(image(values), tmp_path / "a.nii")
    if not good:
        with pytest.raises(ScanError, match="has the shape"):
            read_volume(path)
        if len(shape) == 5:
            assert np.array_equal(read_volume(path, volume=3).voxels, values.reshape(4, 3, 2, -1, order="F")[..., 2].T)
        return
    volume = read_volume(path)
    assert volume.channels == (5 if 5 in shape else 1)
    assert volume.shape == (*reversed((*shape, 1)[:3]),)


@pytest.mark.parametrize(("number", "good"), [(1, True), (3, True), (4, False), (-1, False)])
def test_a_volume_has_one_of_the_numbers(tmp_path: Path, number: int, good: bool) -> None:
    values = np.stack([VOXELS.T + n for n in range(3)], axis=-1)
    path = saved(image(values), tmp_path / "a.nii")
    if good:
        assert np.array_equal(read_volume(path, volume=number).voxels, VOXELS + number - 1)
    else:
        with pytest.raises(UsageError, match=f"--volume {number} of 'a.nii'"):
            read_volume(path, volume=number)


@pytest.mark.parametrize(("units", "factor"), [(0, 1), (1, 1000), (2, 1), (3, 0.001), (4, None), (2 + 8, 1)])
def test_units_of_space_are_the_lowest_bits(tmp_path: Path, units: int, factor: float | None) -> None:
    made = image()
    made.header["xyzt_units"] = units
    made.header["qform_code"] = 2
    path = saved(made, tmp_path / "a.nii")
    if factor is None:
        with pytest.raises(ScanError, match="cannot be read"):
            read_volume(path)
        return
    volume = read_volume(path)
    assert np.allclose(volume.affine[:3], AFFINE[:3] * factor)
    assert volume.source is not None
    assert volume.source["codes"] == {"sform": 1, "qform": 2}
    assert volume.source["apart_mm"] == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize(
    ("pixdim", "good"),
    [((1, 1, 1.5, 3), True), ((-1, 1, 1.5, 3), True), ((1, 0, 1.5, 3), True), ((1, 1, -1.5, 3), False),
     ((1, 1, 1.5, np.nan), False)],
)  # fmt: skip
def test_a_qform_has_steps_and_a_handedness(pixdim: tuple[float, ...], good: bool) -> None:
    header = image(codes=(0, 1)).header
    header["pixdim"][:4] = pixdim
    header["quatern_b"], header["quatern_c"], header["quatern_d"] = 0, 0, 0
    if not good:
        with pytest.raises(UsageError, match="has no qform that can be used"):
            forms_of(Path("a.nii"), header, (4, 3, 2))
        return
    found = forms_of(Path("a.nii"), header, (4, 3, 2))
    steps = [step or 1 for step in pixdim[1:]]
    assert np.allclose(found.affine[:3, :3], np.diag([steps[0], steps[1], steps[2] * (-1 if pixdim[0] < 0 else 1)]))
    assert (found.geometry, found.codes, found.apart, found.contradiction) == ("qform", (0, 1), None, "")


@pytest.mark.parametrize(
    ("codes", "geometry", "expected"),
    [((1, 1), "", "sform"), ((0, 1), "", "qform"), ((1, 0), "", "sform"), ((2, 1), "", "sform"),
     ((1, 1), "qform", "qform"), ((0, 0), "sform", "sform"), ((0, 0), "qform", "qform"), ((0, 0), "", None)],
)  # fmt: skip
def test_the_sform_decides_where_its_code_is_set(codes: tuple[int, int], geometry: str, expected: str | None) -> None:
    header = image().header
    header["sform_code"], header["qform_code"] = codes
    if expected is None:
        with pytest.raises(GeometryError, match="which side is left"):
            forms_of(Path("a.nii"), header, (4, 3, 2))
    else:
        found = forms_of(Path("a.nii"), header, (4, 3, 2), geometry)
        assert (found.geometry, found.codes) == (expected, codes)


def test_how_far_two_forms_are_apart_is_the_way_of_the_farthest_corner() -> None:
    header = image(codes=(1, 2)).header
    header["srow_x"] = (-1.0, 0, 0.5, -5)  # half a millimetre for each of the slices
    header["pixdim"][3] = np.hypot(3, 0.5)
    for shape, apart in (((4, 3, 2), 0.5), ((4, 3, 5), 2.0), ((4, 3), 0.0)):
        assert forms_of(Path("a.nii"), header, shape).apart == pytest.approx(apart, abs=0.2)


# --------------------------------------------------------------------------------------------------------------- write


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_what_is_written_of_a_grid_from_elsewhere(tmp_path: Path, suffix: str) -> None:
    write_labels(tmp_path / f"a{suffix}", Volume(VOXELS, AFFINE), ["a"])
    header = nibabel.load(tmp_path / f"a{suffix}").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 1)
    assert header.get_xyzt_units()[0] == "mm"
    assert np.allclose(header.get_sform(), RAS)
    assert np.allclose(header.get_qform(), RAS)
    assert np.allclose(header["pixdim"][1:4], (1, 1.5, 3))
    assert list(header.extensions) == []
    data = (tmp_path / f"a{suffix}").read_bytes()
    if suffix == ".nii.gz":
        assert data[3:8] == bytes(5)  # no name and no time
    plain = gzip.decompress(data) if suffix == ".nii.gz" else data
    assert len(plain) == 352 + 24
    assert struct.unpack_from("<2f", plain, 112) == (1, 0)  # slope and intercept
    assert np.array_equal(read_labels(tmp_path / f"a{suffix}").voxels, VOXELS)


def test_names_of_regions_are_a_comment(tmp_path: Path) -> None:
    maps = Volume(np.stack([VOXELS > 3, VOXELS > 9]).astype(np.uint8), AFFINE)
    write_regions(tmp_path / "a.nii.gz", maps, ["Läsion", "b"])
    made = nibabel.load(tmp_path / "a.nii.gz")
    (comment,) = made.header.extensions
    assert comment.get_code() == 6
    content = comment.get_content()
    text = content if isinstance(content, str) else bytes(content).decode().rstrip("\0")
    assert json.loads(text) == {"medattn-edge regions": ["Läsion", "b"]}
    assert FORMAT.read_regions is not None
    found = FORMAT.read_regions(tmp_path / "a.nii.gz")
    assert found is not None
    assert found[1] == ("Läsion", "b")
    assert np.array_equal(found[0].voxels, maps.voxels)
    assert np.allclose(found[0].affine, AFFINE)
    for code, names in ((4, ("", "")), (6, ("", ""))):
        plain = nibabel.Nifti1Image(maps.voxels.T, RAS)
        if code == 6:
            plain.header.extensions.append(nibabel.nifti1.Nifti1Extension(6, b'{"medattn-edge regions": [1, 2]}'))
        else:
            plain.header.extensions.append(nibabel.nifti1.Nifti1Extension(4, b'{"medattn-edge regions": ["a", "b"]}'))
        plain.set_sform(RAS, 1)
        found = FORMAT.read_regions(saved(plain, tmp_path / "b.nii"))
        assert found is not None
        assert found[1] == names


def test_maps_are_a_fourth_axis_in_the_same_millimetres(tmp_path: Path) -> None:
    maps = Volume(np.stack([VOXELS, VOXELS + 1]).astype(np.float32), AFFINE)
    write_maps(tmp_path / "a.nii", maps, ["a", "b"])
    made = nibabel.load(tmp_path / "a.nii")
    assert made.shape == (4, 3, 2, 2)
    assert np.allclose(made.affine, RAS)
    assert np.array_equal(read_volume(tmp_path / "a.nii").voxels, maps.voxels)


@pytest.mark.parametrize("geometry", ["sform", "qform"])
@pytest.mark.parametrize("codes", [(1, 1), (4, 2)])
def test_where_a_form_was_chosen_only_that_one_is_written(
    tmp_path: Path, geometry: str, codes: tuple[int, int]
) -> None:
    made = image()
    made.set_sform(np.diag((-1.0, 1, 1, 1)) @ RAS, codes[0])  # left and right exchanged
    made.set_qform(RAS, codes[1])
    path = saved(made, tmp_path / "a.nii")
    with pytest.raises(GeometryError, match="contradict each other"):
        read_volume(path)
    scan = read_volume(path, geometry=geometry)
    write_labels(tmp_path / "labels.nii", scan.with_voxels(VOXELS), ["a"])
    header = nibabel.load(tmp_path / "labels.nii").header
    expected = (codes[0], 0) if geometry == "sform" else (0, codes[1])
    assert (int(header["sform_code"]), int(header["qform_code"])) == expected
    assert bytes(header["descrip"].item()).rstrip(b"\0") == f"geometry: the scan's {geometry}".encode()
    assert np.allclose(read_labels(tmp_path / "labels.nii").affine, scan.affine)
