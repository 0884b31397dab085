"""What is read of an object that comes in, and what makes two of them the same."""

from __future__ import annotations

import hashlib
import logging
import threading
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")

from pydicom.uid import generate_uid  # noqa: E402

from medattn_edge.errors import ScanError, UsageError  # noqa: E402
from medattn_edge.io.dicom.files import data_set_start  # noqa: E402
from medattn_edge.scanner.receive.objects import CutOff, header_of, reason_of, sop_class_uid  # noqa: E402
from tests.support.dicom_mutations import mutations  # noqa: E402
from tests.support.dicom_phantoms import real_ct, write_series  # noqa: E402

NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
DEFLATED, JPEG_2000, RLE = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5"


def object_of(folder: Path, **changes: Any) -> Path:
    scan = real_ct(1, 32, 32)
    [path] = write_series(folder, scan.voxels, scan.affine, **changes)
    return path


@pytest.mark.parametrize("syntax", [*NATIVE, DEFLATED, JPEG_2000, RLE])
def test_the_header_is_the_same_in_every_transfer_syntax(tmp_path, syntax):
    if syntax == JPEG_2000:
        pytest.importorskip("openjpeg", reason="the extra dicom-codecs is not installed")
    path = object_of(tmp_path, transfer_syntax=syntax, SeriesInstanceUID="1.2.3.4")
    found = header_of(path)
    assert (found.sop_uid, found.series_uid) == (generate_uid(entropy_srcs=["1.2.3.4", "0"]), "1.2.3.4")
    assert found.sop_class == "1.2.840.10008.5.1.4.1.1.2"
    assert (found.modality, found.body_part, found.description) == ("CT", "CHEST", "synthetic series")
    start = data_set_start(pydicom.filereader.read_file_meta_info(path))
    assert found.sha256 == hashlib.sha256(path.read_bytes()[start:]).hexdigest()
    assert header_of(path.read_bytes()) == found


def test_another_senders_file_meta_information_makes_no_other_object(tmp_path):
    path = object_of(tmp_path)
    dataset, memory = pydicom.dcmread(path), BytesIO()
    dataset.file_meta.ImplementationVersionName = "ANOTHER"
    dataset.save_as(memory)
    assert memory.getvalue() != path.read_bytes()
    assert header_of(memory.getvalue()) == header_of(path)


@pytest.mark.parametrize("syntax", [*NATIVE, JPEG_2000, RLE])
@pytest.mark.parametrize("lost", [1, 30, 600])
def test_an_object_that_ends_in_its_pixel_data_is_cut_off_and_says_what_it_is(tmp_path, syntax, lost):
    if syntax == JPEG_2000:
        pytest.importorskip("openjpeg", reason="the extra dicom-codecs is not installed")
    path = object_of(tmp_path, transfer_syntax=syntax)
    whole = path.read_bytes()
    with pytest.raises(CutOff) as raised:
        header_of(whole[:-lost])
    assert raised.value.header.sop_uid == header_of(path).sop_uid
    assert reason_of(raised.value) == "truncated"


def test_an_object_that_ends_before_its_pixel_data_is_cut_off(tmp_path):
    path = object_of(tmp_path, ImageComments="x" * 3000)
    whole = path.read_bytes()
    with pytest.raises(CutOff):
        header_of(whole[: whole.index(b"xxxx") + 50])


def test_what_stands_behind_the_pixel_data_or_in_their_place_is_no_reason_to_refuse(tmp_path):
    path = object_of(tmp_path)
    dataset, memory = pydicom.dcmread(path), BytesIO()
    dataset.DataSetTrailingPadding = bytes(64)
    dataset.save_as(memory)
    assert header_of(memory.getvalue()).sop_uid == header_of(path).sop_uid
    del dataset.PixelData, dataset.DataSetTrailingPadding
    memory = BytesIO()
    dataset.save_as(memory)
    assert header_of(memory.getvalue()).sop_uid == header_of(path).sop_uid


def test_a_deflated_object_that_is_cut_off_or_grows_beyond_reason_is_refused(tmp_path):
    path = object_of(tmp_path, transfer_syntax=DEFLATED)
    whole = path.read_bytes()
    with pytest.raises(ScanError) as raised:
        header_of(whole[:-40])
    assert reason_of(raised.value) == "truncated"
    start = data_set_start(pydicom.filereader.read_file_meta_info(path))
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = b"".join(deflate.compress(bytes(1 << 24)) for _ in range(65)) + deflate.flush()
    with pytest.raises(ScanError) as raised:
        header_of(whole[:start] + bomb)
    assert reason_of(raised.value) == "too_large"


@pytest.mark.parametrize("rubbish", [b"", b"DICM", bytes(132) + b"DICM", bytes(1000), b"%PDF-1.7" + bytes(200)])
def test_what_is_no_dicom_file_is_unparsable(rubbish):
    with pytest.raises(ScanError) as raised:
        header_of(rubbish)
    assert reason_of(raised.value) == "unparsable"


def test_uids_that_are_longer_than_one_may_be_are_none(tmp_path):
    whole = object_of(tmp_path, SeriesInstanceUID="1." + "2" * 62).read_bytes()
    place = whole.index(b"1." + b"2" * 62)
    longer = whole[: place - 2] + (66).to_bytes(2, "little") + whole[place : place + 64] + b"22" + whole[place + 64 :]
    assert header_of(whole).series_uid == "1." + "2" * 62
    assert header_of(longer).series_uid == ""


def test_no_damage_gives_anything_but_a_header_or_a_reason_without_a_value_in_it(tmp_path, caplog):
    scan = real_ct(2, 16, 16)
    sources = write_series(tmp_path, scan.voxels, scan.affine, PatientName="Zyxwvut^Testpatient")
    with caplog.at_level(logging.DEBUG, "pydicom"):
        refused = []
        for _, data in mutations(sources, 300, seed=11):
            try:
                header_of(data)
            except ScanError as error:
                refused.append(error)
    assert 30 < len(refused) < 300
    assert not any("zyx" in str(error).lower() for error in refused)
    assert "zyx" not in caplog.text.lower()


def test_several_threads_read_headers_at_once(tmp_path):
    path = object_of(tmp_path)
    data, expected = path.read_bytes(), header_of(path)
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.extend(header_of(data) for _ in range(20))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 80


def test_storage_classes_are_known_by_keyword_and_by_uid():
    assert sop_class_uid("CTImageStorage") == "1.2.840.10008.5.1.4.1.1.2"
    assert sop_class_uid("1.2.840.10008.5.1.4.1.1.2") == "1.2.840.10008.5.1.4.1.1.2"
    assert sop_class_uid("1.2.840.10008.5.1.4.1.1.29") == "1.2.840.10008.5.1.4.1.1.29"  # a retired storage class
    assert sop_class_uid("1.2.826.0.1.3680043.8.498.1") == "1.2.826.0.1.3680043.8.498.1"
    with pytest.raises(UsageError) as raised:
        sop_class_uid("CTImagesStorage")
    assert raised.value.hint == "CTImageStorage"
    for name in ("Verification", "1.2.840.10008.1.1", ""):
        with pytest.raises(UsageError):
            sop_class_uid(name)
