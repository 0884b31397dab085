"""NIfTI: RAS on disk, LPS in the volume, and no guess about left and right."""

import gzip
import struct

import nibabel
import numpy as np
import pytest

from medattn_edge.errors import GeometryError, ScanError
from medattn_edge.io import read_labels, read_volume, write_labels, write_maps
from medattn_edge.volume import Volume

RAS_LPS = np.diag((-1.0, -1.0, 1.0, 1.0))
OBLIQUE = np.array([[-0.6, 0.1, 0.3, 90.0], [0.1, 0.7, -0.4, -120.0], [0.05, 0.1, 5.0, 33.0], [0, 0, 0, 1]])


def save(path, array, affine=OBLIQUE, **fields):
    image = nibabel.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, 1)
    unit = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    image.set_qform(affine, int(np.allclose(unit.T @ unit, np.eye(3), atol=1e-4)))  # a quaternion cannot hold shear
    for name, value in fields.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


def patch(path, offset, layout, *values):
    """Set header fields on disk, where nibabel would tidy them."""
    raw = bytearray(path.read_bytes())
    struct.pack_into(layout, raw, offset, *values)
    path.write_bytes(raw)


@pytest.fixture
def scan():
    return np.random.default_rng(0).integers(-1000, 1000, (3, 4, 5)).astype(np.int16)


def test_every_voxel_is_where_nibabel_says(tmp_path, scan):
    volume = read_volume(save(tmp_path / "scan.nii.gz", scan))
    image = nibabel.load(tmp_path / "scan.nii.gz")
    assert volume.shape == (5, 4, 3)
    assert volume.voxels.dtype == np.int16
    for i, j, k in np.ndindex(*scan.shape):
        assert volume.voxels[k, j, i] == scan[i, j, k]
        assert np.allclose(volume.point(k, j, i), (RAS_LPS @ image.affine @ (i, j, k, 1))[:3])


@pytest.mark.parametrize("codes", ["RAS", "LPS", "LAS", "PIR", "SAL", "IPR"])
def test_to_lps_agrees_with_nibabels_own_reorientation(tmp_path, scan, codes):
    wanted = nibabel.orientations.axcodes2ornt(tuple(codes))
    image = nibabel.Nifti1Image(scan, OBLIQUE).as_reoriented(
        nibabel.orientations.ornt_transform(nibabel.io_orientation(OBLIQUE), wanted)
    )
    nibabel.save(image, tmp_path / "scan.nii")
    turned = read_volume(tmp_path / "scan.nii").to_lps()
    ras = nibabel.as_closest_canonical(nibabel.load(tmp_path / "scan.nii"))
    # Canonical is (R, A, S); LPS (D, H, W) is its transpose with H and W reversed.
    assert np.array_equal(turned.voxels, np.asarray(ras.dataobj).T[:, ::-1, ::-1])
    last = (RAS_LPS @ ras.affine @ (*np.array(ras.shape[:2]) - 1, 0, 1))[:3]
    assert np.allclose(turned.point(0, 0, 0), last, atol=1e-4)


def test_written_labels_have_the_affine_of_the_scan_in_nibabel_too(tmp_path, scan):
    volume = read_volume(save(tmp_path / "scan.nii.gz", scan))
    write_labels(tmp_path / "labels.nii.gz", volume.with_voxels((volume.voxels > 0).astype(np.uint8)), ["a", "b"])
    written, original = nibabel.load(tmp_path / "labels.nii.gz"), nibabel.load(tmp_path / "scan.nii.gz")
    assert np.array_equal(written.affine, original.affine)
    assert np.array_equal(np.asarray(written.dataobj), scan > 0)
    assert written.get_data_dtype() == np.uint8
    assert written.header.get_xyzt_units()[0] == "mm"
    assert written.header["sform_code"] == 1
    assert struct.unpack_from("<ff", gzip.decompress((tmp_path / "labels.nii.gz").read_bytes()), 112) == (1, 0)


def test_qform_is_written_only_when_it_can_say_the_same(tmp_path):
    straight = Volume(np.ones((2, 3, 4), np.uint8), [[0, 0, -0.7, 0], [0, 0.7, 0, 0], [2, 0, 0, 0], [0, 0, 0, 1]])
    sheared = Volume(np.ones((2, 3, 4), np.uint8), [[0, 0.2, 0.7, 0], [0, 0.7, 0, 0], [2, 0, 0, 0], [0, 0, 0, 1]])
    for volume, code in ((straight, 1), (sheared, 0)):
        write_labels(tmp_path / "labels.nii", volume, ["a", "b"])
        image = nibabel.load(tmp_path / "labels.nii")
        assert image.header["qform_code"] == code
        if code:
            assert np.allclose(image.get_qform(), image.get_sform(), atol=1e-5)


def test_maps_are_a_fourth_axis(tmp_path):
    maps = np.random.default_rng(0).random((2, 3, 4, 5)).astype(np.float32)
    write_maps(tmp_path / "maps.nii.gz", Volume(maps, RAS_LPS @ OBLIQUE), ["background", "lung"])
    image = nibabel.load(tmp_path / "maps.nii.gz")
    assert image.get_data_dtype() == np.float32
    assert np.array_equal(np.asarray(image.dataobj), maps.T)


def test_the_headers_scaling_is_applied(tmp_path):
    path = save(tmp_path / "scan.nii", np.array([[[0, 1, 2]]], np.int16))
    patch(path, 112, "<ff", 2.5, -1000)
    volume = read_volume(path)
    assert volume.voxels.ravel().tolist() == [-1000, -997.5, -995]
    assert volume.voxels.dtype == np.float32


def test_big_endian_voxels_arrive_in_the_hosts_order(tmp_path, scan):
    image = nibabel.Nifti1Image(scan, OBLIQUE, header=nibabel.Nifti1Header(endianness=">"))
    image.header.set_data_dtype(np.int16)
    nibabel.save(image, tmp_path / "scan.nii")
    volume = read_volume(tmp_path / "scan.nii")
    assert volume.voxels.dtype.isnative
    assert np.array_equal(volume.voxels, scan.T)


@pytest.mark.parametrize(("units", "factor"), [("mm", 1), ("unknown", 1), ("meter", 1000), ("micron", 0.001)])
def test_positions_are_in_mm_whatever_the_header_uses(tmp_path, scan, units, factor):
    path = save(tmp_path / "scan.nii", scan, xyzt_units=nibabel.nifti1.unit_codes[units])
    assert np.allclose(read_volume(path).spacing, factor * np.linalg.norm(OBLIQUE[:3, [2, 1, 0]], axis=0), rtol=1e-5)


def test_without_sform_and_qform_left_and_right_are_unknown(tmp_path, scan):
    path = save(tmp_path / "scan.nii", scan)
    patch(path, 252, "<hh", 0, 0)
    with pytest.raises(GeometryError, match="which side is left") as caught:
        read_volume(path)
    assert "set_sform" in caught.value.hint


def test_qform_alone_is_enough(tmp_path, scan):
    affine = np.diag((-0.7, 0.7, 3.0, 1.0))
    volume = read_volume(save(tmp_path / "scan.nii", scan, affine, sform_code=0))
    assert np.allclose(volume.affine, (RAS_LPS @ affine)[:, [2, 1, 0, 3]], atol=1e-6)


@pytest.mark.parametrize("shape", [(3, 4, 5, 1), (3, 4, 5, 1, 1)])
def test_trailing_axes_of_one_are_dropped(tmp_path, scan, shape):
    assert np.array_equal(read_volume(save(tmp_path / "scan.nii", scan.reshape(shape))).voxels, scan.T)


def test_two_axes_are_one_slice(tmp_path, scan):
    assert np.array_equal(read_volume(save(tmp_path / "scan.nii", scan[:, :, 0])).voxels, scan[:, :, 0].T[None])


def test_volumes_along_several_axes_are_refused_with_the_way_to_take_one(tmp_path):
    path = save(tmp_path / "scan.nii", np.zeros((3, 4, 5, 2, 3), np.int16))
    with pytest.raises(ScanError, match=r"\(3, 4, 5, 2, 3\)") as caught:
        read_volume(path)
    assert "slicer[..., 0]" in caught.value.hint


@pytest.mark.parametrize("dtype", [np.complex64, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])])
def test_colour_and_complex_voxels_are_refused(tmp_path, dtype):
    path = save(tmp_path / "scan.nii", np.zeros((3, 4, 5), dtype))
    with pytest.raises(ScanError, match="colour or complex"):
        read_volume(path)


def test_labels_stored_as_floats_are_labels(tmp_path):
    path = save(tmp_path / "labels.nii", np.array([[[0.0, 2.0, 1.0]]]))
    assert read_labels(path).voxels.ravel().tolist() == [0, 2, 1]


def test_something_else_under_the_suffix_is_refused(tmp_path):
    (tmp_path / "scan.nii.gz").write_bytes(gzip.compress(b"<html>not found</html>" * 100))
    with pytest.raises(ScanError, match="cannot be read"):
        read_volume(tmp_path / "scan.nii.gz")


def test_an_intact_gzip_with_too_few_voxels_is_refused(tmp_path, scan):
    path = save(tmp_path / "scan.nii.gz", scan)
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-10]))
    with pytest.raises(ScanError, match="cannot be read"):
        read_volume(path)
