"""Leftovers beside a series are left out with a note, media are found under changed names, bare data sets are read."""

import shutil
import struct

import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from medattn_edge.errors import ScanError
from medattn_edge.io import read_volume
from medattn_edge.io.dicom.files import is_dicom, without_preamble
from medattn_edge.io.dicom.volume import choose_series, find_series, read_series, search
from tests.support.dicom_phantoms import make_series, real_ct, save, write_medium, write_series

SCAN = real_ct(4, 12, 10)
UID = generate_uid(entropy_srcs=["files"])
RAW = "1.2.840.10008.5.1.4.1.1.66"
PRESENTATION = "1.2.840.10008.5.1.4.1.1.11.1"
REPORT = "1.2.840.10008.5.1.4.1.1.88.11"


def other_object(path, kind, series_uid):
    """An object that is no image."""
    dataset = make_series(SCAN.voxels[:1], SCAN.affine, SeriesInstanceUID=series_uid, SOPClassUID=kind)[0]
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    dataset.Modality = "OT"
    for keyword in ("Rows", "Columns", "PixelData", "ImagePositionPatient"):
        del dataset[keyword]
    return save(path, dataset)


@pytest.mark.parametrize("kind", [RAW, PRESENTATION, REPORT])
@pytest.mark.parametrize("same", [True, False])
def test_an_object_that_is_no_image_is_left_out_with_a_note(tmp_path, kind, same):
    files = write_series(tmp_path, SCAN.voxels, SCAN.affine, SeriesInstanceUID=UID)
    other_object(tmp_path / "other.dcm", kind, UID if same else "1.2.3.9")
    series = choose_series(tmp_path)
    assert series.files == tuple(files)
    assert np.array_equal(read_series(series).voxels, SCAN.voxels)
    assert any("1 of 5 files left out" in note for note in series.notes) == same


def test_nothing_but_other_objects_is_refused_as_before(tmp_path):
    other_object(tmp_path / "other.dcm", RAW, UID)
    (series,) = find_series(tmp_path)
    assert series.reason == "not_an_image"


@pytest.mark.parametrize(
    ("name", "content", "note"),
    [
        ("._slice_0000.dcm", b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        ", "1 AppleDouble files"),
        ("empty.dcm", b"", "1 empty files"),
    ],
)
def test_leftovers_with_a_dicom_name_are_left_out_with_a_note(tmp_path, name, content, note):
    write_series(tmp_path, SCAN.voxels, SCAN.affine)
    (tmp_path / name).write_bytes(content)
    series = choose_series(tmp_path)
    assert np.array_equal(read_series(series).voxels, SCAN.voxels)
    assert note in series.notes[0]
    assert search(tmp_path).ignored == 1


def test_damage_beside_a_series_is_no_leftover(tmp_path):
    write_series(tmp_path, SCAN.voxels, SCAN.affine)
    (tmp_path / "._hidden.dcm").write_bytes(b"damaged " * 100)
    with pytest.raises(ScanError, match="damaged files"):
        choose_series(tmp_path)


def lower(name):
    return name.lower()


@pytest.mark.parametrize(
    ("rename", "directory"),
    [
        (lower, "dicomdir"),
        (lambda name: name + ".dcm", "DICOMDIR"),
        (lambda name: name + ".DCM", "DICOMDIR.dcm"),
        (lambda name: name + ";1", "DICOMDIR;1"),
        (lambda name: name.lower() + ".;1", "dicomdir.;1"),
        (lambda name: name.lower() + ".dcm", "dicomdir"),
    ],
)
def test_a_medium_whose_names_a_copy_changed_is_found(tmp_path, rename, directory):
    medium = write_medium(write_series(tmp_path / "in", SCAN.voxels, SCAN.affine), tmp_path / "medium")
    folder = medium.parent
    for path in sorted((path for path in folder.rglob("*") if path != medium), reverse=True):
        path.rename(path.with_name(rename(path.name) if path.is_file() or rename is lower else path.name))
    medium = medium.rename(medium.with_name(directory))
    (series,) = find_series(medium)
    assert series.accepted, series
    assert np.array_equal(read_series(series).voxels, SCAN.voxels)


def test_a_name_on_a_medium_that_fits_in_two_ways_is_not_chosen(tmp_path):
    medium = write_medium(write_series(tmp_path / "in", SCAN.voxels, SCAN.affine), tmp_path / "medium")
    file = next(path for path in sorted(medium.parent.rglob("*")) if path.is_file() and path != medium)
    shutil.copy(file, file.with_name(file.name + ".dcm"))
    assert find_series(medium)[0].accepted
    shutil.copy(file, file.with_name(file.name + ";1"))
    file.unlink()
    assert find_series(medium)[0].reason == "missing_file"


SYNTAXES = {
    "implicit": "1.2.840.10008.1.2",
    "explicit": "1.2.840.10008.1.2.1",
    "big": "1.2.840.10008.1.2.2",
    "rle": "1.2.840.10008.1.2.5",
}


@pytest.mark.parametrize("suffix", [".dcm", ""])
@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_file_that_begins_with_its_meta_information_is_read(tmp_path, syntax, suffix):
    for path in write_series(tmp_path, SCAN.voxels, SCAN.affine, transfer_syntax=SYNTAXES[syntax]):
        path.rename(path.with_suffix(suffix)).write_bytes(path.with_suffix(suffix).read_bytes()[132:])
    assert np.array_equal(read_volume(tmp_path).voxels, SCAN.voxels)


@pytest.mark.parametrize("suffix", [".dcm", ""])
@pytest.mark.parametrize("syntax", ["implicit", "explicit", "big"])
def test_a_data_set_alone_is_read(tmp_path, syntax, suffix):
    for path in write_series(tmp_path, SCAN.voxels, SCAN.affine, transfer_syntax=SYNTAXES[syntax]):
        start = 132 + 12 + pydicom.filereader.read_file_meta_info(path).FileMetaInformationGroupLength
        path.rename(path.with_suffix(suffix)).write_bytes(path.with_suffix(suffix).read_bytes()[start:])
    assert np.array_equal(read_volume(tmp_path).voxels, SCAN.voxels)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x08\x00",
        b"\x08\x00\x05\x00" * 100,
        bytes(400),
        b"\x7fELF" + bytes(400),
        b"PK\x03\x04" * 99,
        b"\x08\x00" * 200,
    ],
)
def test_other_files_are_not_taken_for_bare_data_sets(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    assert not is_dicom(tmp_path / "file")
    assert not without_preamble(content)


NUMBERS = {"PixelSpacing": 2, "ImagePositionPatient": 3, "RescaleSlope": 1}


@pytest.mark.parametrize("keyword", NUMBERS)
def test_decimal_commas_are_named(tmp_path, keyword):
    for path in write_series(tmp_path, SCAN.voxels, SCAN.affine, **{keyword: ["1.75"] * NUMBERS[keyword]}):
        path.write_bytes(path.read_bytes().replace(b"1.75", b"1,75"))
    (series,) = find_series(tmp_path)
    assert series.reason == "unreadable"
    assert f"decimal commas where DICOM has points, in {keyword}" in series.detail
    assert "decimal points" in series.hint


def test_decimal_commas_of_an_enhanced_object_are_named_too(tmp_path):
    (dataset,) = make_series(SCAN.voxels, SCAN.affine, enhanced=True)
    dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = ["1.75", "1.75"]
    path = save(tmp_path / "one.dcm", dataset)
    path.write_bytes(path.read_bytes().replace(b"1.75", b"1,75"))
    (series,) = find_series(path)
    assert "decimal commas where DICOM has points, in PixelSpacing" in series.detail


def test_a_number_with_a_comma_that_the_grid_does_not_need_is_no_reason(tmp_path):
    for path in write_series(tmp_path, SCAN.voxels, SCAN.affine, SliceThickness="1.75"):
        path.write_bytes(path.read_bytes().replace(b"1.75", b"1,75"))
    assert np.array_equal(read_volume(tmp_path).voxels, SCAN.voxels)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("group", "element"), [(2, 0), (2, 1), (8, 0), (8, 1), (8, 5), (8, 8), (8, 0x12), (8, 0x16), (8, 0x18)]
)
def test_data_without_a_preamble_may_begin_with_any_element_before_an_images_uid(order, group, element):
    """Implicit VR: tag, length, value. What begins later in a data set, or with another group, is no such file."""

    def head(tag: tuple[int, int]) -> bytes:
        after = (tag[0], tag[1] + 1)
        return b"".join(struct.pack(f"{order}HHL4s", *one, 4, b"1.2\0") for one in (tag, after)) + bytes(20)

    assert without_preamble(head((group, element)))
    assert not without_preamble(head((group, 0x20)))
    assert not without_preamble(head((group + 2, element)))


@pytest.mark.parametrize(
    ("second", "is_one"), [((8, 5), True), ((7, 5), False), ((9, 5), False), ((0x10, 0x10), False)]
)
def test_after_the_last_element_of_the_meta_information_comes_the_data_sets_first_group(second, is_one):
    """A single element of the meta information without a preamble, and then an element of another group."""
    elements = (struct.pack("<HHL4s", *tag, 4, b"1.2\0") for tag in ((2, 1), second))
    assert without_preamble(b"".join(elements) + bytes(20)) is is_one
