"""A NIfTI header says twice where its voxels are: what agrees travels on unchanged, what contradicts is refused."""

import gzip
import struct

import nibabel
import numpy as np
import pytest

from medattn_edge.errors import GeometryError, ScanError, UsageError
from medattn_edge.inference.preprocess import prepare
from medattn_edge.io import read_labels, read_volume, write_labels, write_maps
from medattn_edge.io.nifti_forms import FIELDS, forms_of
from medattn_edge.volume import Volume
from tests.support.sessions import make_spec

RAS_LPS = np.diag((-1.0, -1.0, 1.0, 1.0))
SCANNER = np.array([[-1.8, 0, 0, 90.0], [0, 1.8, 0, -120.0], [0, 0, 5.0, 33.0], [0, 0, 0, 1]])
VOXELS = np.random.default_rng(0).integers(-1000, 1000, (6, 7, 8)).astype(np.int16)


def turned(affine, degrees):
    angle = np.radians(degrees)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return turn @ affine


def moved(affine, *millimetres):
    place = np.array(affine)
    place[:3, 3] += millimetres
    return place


def save(path, *forms, units="mm", kind=nibabel.Nifti1Image, voxels=VOXELS):
    sform, sform_code, qform, qform_code = forms
    image = kind(voxels, None)
    image.header.set_xyzt_units(units)
    image.set_sform(sform, sform_code)
    image.set_qform(qform, qform_code)
    image.to_filename(path)
    return path


def where(form):
    """A form in the file, as a Volume's affine."""
    return (RAS_LPS @ form)[:, [2, 1, 0, 3]]


CONTRADICTIONS = {
    "spacing": (np.diag((-1.0, 1.0, 1.0, 1.0)), 1, SCANNER, 1, "spacings"),
    "spacing in other coordinates": (SCANNER @ np.diag((1.05, 1.05, 1.05, 1.0)), 4, SCANNER, 1, "spacings"),
    "spacing of one axis": (SCANNER @ np.diag((1.0, 1.0, 1.02, 1.0)), 2, SCANNER, 1, "spacings"),
    "spacing without a qform": (SCANNER, 1, np.diag((2.0, 2.0, 5.0, 1.0)), 0, "pixdim"),
    "handedness": (SCANNER @ np.diag((-1.0, 1, 1, 1)), 2, SCANNER, 1, "left and right"),
    "place": (moved(SCANNER, 1.0, 0, 0), 1, SCANNER, 1, "0.6 voxels"),
    "direction": (turned(SCANNER, 7), 1, SCANNER, 1, "voxels"),
}
DIFFERENCES = {
    "template and scanner": (moved(turned(SCANNER, 7), 20, -30, 5), 4, SCANNER, 1),
    "aligned and scanner": (turned(SCANNER, 90), 2, SCANNER, 1),
    "rounding": (moved(SCANNER, 0.01, 0, 0), 1, SCANNER, 1),
    "the same": (SCANNER, 3, SCANNER, 3),
    "only a qform": (None, 0, turned(SCANNER, 7), 1),
    "only a sform": (turned(SCANNER, 7), 2, SCANNER, 0),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_forms_that_contradict_each_other_are_refused_with_both(tmp_path, name):
    *forms, why = CONTRADICTIONS[name]
    path = save(tmp_path / "scan.nii.gz", *forms)
    with pytest.raises(GeometryError, match=why) as caught:
        read_volume(path)
    assert f"sform (code {forms[1]}): [[" in caught.value.found
    assert f"qform (code {forms[3]}): [[" in caught.value.found
    assert "--geometry" in caught.value.hint


@pytest.mark.parametrize("name", CONTRADICTIONS)
@pytest.mark.parametrize("geometry", ["sform", "qform"])
def test_a_choice_decides_is_recorded_and_is_all_that_the_labels_say(tmp_path, name, geometry):
    sform, sform_code, qform, qform_code, _ = CONTRADICTIONS[name]
    scan = read_volume(save(tmp_path / "scan.nii.gz", sform, sform_code, qform, qform_code), geometry=geometry)
    assert np.allclose(scan.affine, where(sform if geometry == "sform" else qform), atol=1e-4)
    assert scan.source["geometry"] == geometry
    write_labels(tmp_path / "labels.nii.gz", scan.with_voxels((scan.voxels > 0).astype(np.uint8)), ["a", "b"])
    labels = read_labels(tmp_path / "labels.nii.gz")
    assert np.allclose(labels.affine, scan.affine, atol=1e-4)
    assert labels.voxel_ml == pytest.approx(scan.voxel_ml, rel=1e-5)
    header = nibabel.load(tmp_path / "labels.nii.gz").header
    assert np.allclose(header.get_zooms(), scan.spacing[::-1], rtol=1e-5)
    assert [bool(header[f"{form}_code"]) for form in ("sform", "qform")] == [geometry == "sform", geometry == "qform"]
    assert geometry in bytes(header["descrip"].item()).decode()


@pytest.mark.parametrize("units", ["mm", "micron", "meter"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("name", DIFFERENCES)
def test_forms_that_merely_differ_travel_unchanged(tmp_path, name, kind, units):
    path = save(tmp_path / "scan.nii", *DIFFERENCES[name], units=units, kind=kind)
    scan = read_volume(path)
    canonical = scan.to_lps()
    labels = canonical.with_voxels((canonical.voxels > 0).astype(np.uint8)).like(scan)
    maps = scan.with_voxels(np.stack([scan.voxels, -scan.voxels]).astype(np.float32))
    write_labels(tmp_path / "labels.nii.gz", labels, ["a", "b"])
    write_maps(tmp_path / "maps.nii.gz", maps, ["a", "b"])
    source = nibabel.load(path)
    for written in (nibabel.load(tmp_path / "labels.nii.gz"), nibabel.load(tmp_path / "maps.nii.gz")):
        for field in FIELDS:
            assert np.array_equal(written.header[field], np.float32(source.header[field])), field
        assert np.array_equal(written.header["pixdim"][:4], np.float32(source.header["pixdim"][:4]))
        assert np.allclose(written.get_qform(), source.get_qform(), rtol=1e-6)
        assert np.allclose(written.affine, source.affine, rtol=1e-6)
    assert np.array_equal(np.asarray(nibabel.load(tmp_path / "labels.nii.gz").dataobj), VOXELS > 0)


def test_labels_of_another_grid_do_not_get_the_scans_forms(tmp_path):
    scan = read_volume(save(tmp_path / "scan.nii", *DIFFERENCES["template and scanner"])).to_lps()
    write_labels(tmp_path / "labels.nii", scan.with_voxels((scan.voxels > 0).astype(np.uint8)), ["a", "b"])
    assert np.allclose(read_volume(tmp_path / "labels.nii").affine, scan.affine, atol=1e-4)


def test_how_far_the_other_form_is_away_is_known(tmp_path):
    scan = read_volume(save(tmp_path / "scan.nii", moved(SCANNER, 3, 4, 0), 4, SCANNER, 1))
    assert scan.source["apart_mm"] == pytest.approx(5.0, rel=1e-5)
    assert scan.source["codes"] == {"sform": 4, "qform": 1}
    assert read_volume(save(tmp_path / "scan.nii", None, 0, SCANNER, 1)).source["apart_mm"] is None


def test_a_sform_of_zeros_is_none(tmp_path):
    path = save(tmp_path / "scan.nii", SCANNER, 1, turned(SCANNER, 7), 1)
    raw = bytearray(path.read_bytes())
    raw[280:328] = bytes(48)
    path.write_bytes(raw)
    scan = read_volume(path)
    assert scan.source["geometry"] == "qform"
    assert np.allclose(scan.affine, where(turned(SCANNER, 7)), atol=1e-4)
    with pytest.raises(UsageError, match="no sform") as caught:
        read_volume(path, geometry="sform")
    assert caught.value.hint == "--geometry qform"


@pytest.mark.parametrize(("offset", "count", "left"), [(280, 12, "qform"), (256, 6, "sform")])
def test_a_form_of_no_numbers_beside_a_good_one_is_refused(tmp_path, offset, count, left):
    path = save(tmp_path / "scan.nii", SCANNER, 1, SCANNER, 1)
    raw = bytearray(path.read_bytes())
    struct.pack_into(f"<{count}f", raw, offset, *[np.nan] * count)
    path.write_bytes(raw)
    with pytest.raises(GeometryError, match="numbers that are none"):
        read_volume(path)
    assert np.allclose(read_volume(path, geometry=left).affine, where(SCANNER), atol=1e-4)


def test_the_qform_is_nibabels_for_any_quaternion():
    random = np.random.default_rng(0)
    for _ in range(200):
        header = nibabel.Nifti1Header()
        matrix, _ = np.linalg.qr(random.normal(size=(3, 3)))
        affine = np.eye(4)
        affine[:3, :3] = matrix * random.uniform(0.3, 6, 3)
        affine[:3, 3] = random.normal(0, 100, 3)
        header.set_qform(affine, 1)
        assert np.allclose(forms_of("scan", header, (3, 4, 5)).affine, header.get_qform(), atol=1e-4)


def test_a_half_turn_whose_quaternion_was_rounded_up_is_read():
    header = nibabel.Nifti1Header()
    header.set_qform(np.diag((-1.0, -1, 1, 1)), 1)
    header["quatern_d"] = 1.0001
    assert np.allclose(forms_of("scan", header, (3, 4, 5)).affine, np.diag((-1.0, -1, 1, 1)))


@pytest.mark.parametrize("geometry", ["qfrom", "SFORM"])
def test_another_word_is_no_geometry(tmp_path, geometry):
    with pytest.raises(UsageError, match="geometry"):
        read_volume(save(tmp_path / "scan.nii", SCANNER, 1, SCANNER, 1), geometry=geometry)


def test_a_format_of_one_geometry_leaves_no_choice(tmp_path):
    np.savez(tmp_path / "scan.npz", voxels=VOXELS, affine=SCANNER)
    for choice in ({"geometry": "sform"}, {"volume": 2}):
        with pytest.raises(UsageError, match="nifti"):
            read_volume(tmp_path / "scan.npz", **choice)


def test_one_of_several_volumes_is_taken_by_its_number(tmp_path):
    several = np.stack([VOXELS, VOXELS + 1, VOXELS + 2], axis=-1)
    path = save(tmp_path / "scan.nii.gz", SCANNER, 1, SCANNER, 1, voxels=several)
    channels = read_volume(path)  # what a network of three channels takes
    assert np.array_equal(channels.voxels, np.moveaxis(several, -1, 0).transpose(0, 3, 2, 1))
    with pytest.raises(ScanError, match="3 channel") as caught:
        prepare(channels, make_spec((4, 4)))
    assert "--volume" in caught.value.hint
    for number in (1, 2, 3):
        assert np.array_equal(read_volume(path, volume=number).voxels, several[..., number - 1].T)
    for number in (4, -1):
        with pytest.raises(UsageError, match="1 to 3"):
            read_volume(path, volume=number)


@pytest.mark.parametrize("bit", range(8))
def test_no_flipped_bit_of_a_compressed_scan_gives_other_voxels(tmp_path, bit):
    path = save(tmp_path / "scan.nii.gz", SCANNER, 1, SCANNER, 1)
    whole, packed = read_volume(path).voxels, path.read_bytes()
    refused = 0
    for place in range(20, len(packed), 11):
        damaged = bytearray(packed)
        damaged[place] ^= 1 << bit
        path.write_bytes(damaged)
        try:
            assert np.array_equal(read_volume(path).voxels, whole)
        except (ScanError, GeometryError):
            refused += 1
    assert refused > 20


def test_a_check_sum_that_is_cut_off_is_noticed(tmp_path):
    path = save(tmp_path / "scan.nii.gz", SCANNER, 1, SCANNER, 1)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ScanError, match="cannot be read"):
        read_volume(path)


@pytest.mark.parametrize("shape", [(2000, 2000, 1600), (1500, 1500, 1400)])
def test_a_small_file_that_promises_gigabytes_is_refused_before_they_are_reserved(tmp_path, shape):
    header = nibabel.Nifti1Header()
    header.set_data_shape(shape)
    header.set_sform(SCANNER, 1)
    (tmp_path / "scan.nii.gz").write_bytes(gzip.compress(header.binaryblock + bytes(1 << 20)))
    with pytest.raises(ScanError, match="promises"):
        read_volume(tmp_path / "scan.nii.gz")


def test_a_small_scan_with_megabytes_of_nothing_behind_it_is_refused(tmp_path):
    path = save(tmp_path / "scan.nii.gz", SCANNER, 1, SCANNER, 1)
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(64 << 20)))
    with pytest.raises(ScanError, match="behind its voxels"):
        read_volume(path)


def test_a_volume_from_elsewhere_is_written_as_before(tmp_path):
    volume = Volume(np.ones((2, 3, 4), np.uint8), where(SCANNER))
    write_labels(tmp_path / "labels.nii", volume, ["a", "b"])
    header = nibabel.load(tmp_path / "labels.nii").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 1)


def test_an_oblique_grid_of_unequal_steps_is_no_sheared_one(tmp_path):
    tilt = np.eye(4)
    tilt[1:3, 1:3] = [[0.8, -0.6], [0.6, 0.8]]  # a gantry: across the slices, whose step is another
    write_labels(tmp_path / "labels.nii", Volume(np.ones((2, 3, 4), np.uint8), where(tilt @ SCANNER)), ["a", "b"])
    header = nibabel.load(tmp_path / "labels.nii").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 1)
    assert np.allclose(header.get_qform(), tilt @ SCANNER, atol=1e-4)
