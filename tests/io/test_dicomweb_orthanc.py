"""Orthanc with its DICOMweb plugin: what goes in comes out, results too, byte for byte or as equal data sets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO

import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
pytest.importorskip("dicomweb_client", reason="the extra dicomweb is not installed")
pytest.importorskip("pynetdicom", reason="the extra node is not installed")

from pydicom.uid import JPEG2000Lossless, JPEGLSLossless  # noqa: E402

from medattn_edge.cohort import CohortSettings, PoolSettings, archive_cases, segment_cohort  # noqa: E402
from medattn_edge.io.dicom.series import series_hash  # noqa: E402
from medattn_edge.io.dicomweb.address import Archive, Credentials  # noqa: E402
from medattn_edge.io.dicomweb.client import Connection  # noqa: E402
from medattn_edge.io.dicomweb.errors import ArchiveDataError, ArchiveError  # noqa: E402
from medattn_edge.io.dicomweb.query import list_series  # noqa: E402
from medattn_edge.io.dicomweb.retrieve import choose_listed, retrieve  # noqa: E402
from medattn_edge.io.dicomweb.store import read_object, store  # noqa: E402
from tests.support.archive_peer import make_results  # noqa: E402
from tests.support.dicom_phantoms import real_ct, write_series  # noqa: E402
from tests.support.orthanc_peer import Orthanc, needs_dicomweb  # noqa: E402

pytestmark = [pytest.mark.slow, needs_dicomweb]


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with Orthanc(tmp_path_factory.mktemp("orthanc") / "storage", dicomweb=True) as started:
        yield started


@pytest.fixture
def connection(orthanc: Orthanc) -> Iterator[Connection]:
    with Connection(Archive(orthanc.url)) as opened:
        yield opened


def test_what_is_stored_comes_back_byte_for_byte_however_often(connection, tmp_path):
    ct = real_ct(6, 40, 36)
    files = write_series(tmp_path / "in", ct.voxels, ct.affine, SeriesInstanceUID="1.2.3.1", StudyInstanceUID="1.2.3")
    for _ in range(2):
        assert [store(connection, read_object(path)) for path in files] == [0] * 6
    series, notes = choose_listed(connection, "1.2.3")
    assert (series.modality, series.instances, notes) == ("CT", 6, ())
    (tmp_path / "out").mkdir()
    back = retrieve(connection, series, tmp_path / "out")
    assert {path.read_bytes() for path in back} == {path.read_bytes() for path in files}


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless])
def test_compressed_objects_come_as_they_are(connection, orthanc, tmp_path, syntax):
    """Asked for without compression, this Orthanc answers 500."""
    ct = real_ct(3, 40, 36)
    about = {"SeriesInstanceUID": f"{syntax}.9", "StudyInstanceUID": f"{syntax}.8"}
    files = write_series(tmp_path / "in", ct.voxels, ct.affine, transfer_syntax=syntax, **about)
    orthanc.upload(files)
    series, _ = choose_listed(connection, about["StudyInstanceUID"])
    (tmp_path / "out").mkdir()
    back = retrieve(connection, series, tmp_path / "out")
    assert {path.read_bytes() for path in back} == {path.read_bytes() for path in files}


@pytest.mark.parametrize("planning", [False, True], ids=["seg, label map, key slice", "seg, rtstruct, sr"])
def test_results_come_back_as_equal_data_sets(connection, orthanc, tmp_path, planning):
    for path in make_results(tmp_path, planning=planning).values():
        assert store(connection, read_object(path)) == 0
        dataset = pydicom.dcmread(path)
        [found] = orthanc.find("Instance", SOPInstanceUID=str(dataset.SOPInstanceUID))
        held = orthanc.raw(f"/instances/{found['ID']}/file")
        assert held == path.read_bytes() or pydicom.dcmread(BytesIO(held)) == dataset
        [series] = [
            one
            for one in list_series(connection, {"StudyInstanceUID": str(dataset.StudyInstanceUID)}).series
            if one.series_uid == dataset.SeriesInstanceUID
        ]
        folder = tmp_path / f"of {path.stem}"
        folder.mkdir()
        [back] = retrieve(connection, series, folder)
        assert back.read_bytes() == path.read_bytes() or pydicom.dcmread(back) == dataset


def test_a_query_finds_what_fits(connection, orthanc, tmp_path):
    ct = real_ct(2, 12, 10)
    for number in (1, 2, 3):
        about = {"SeriesInstanceUID": f"1.2.4.{number}", "StudyInstanceUID": f"1.2.40.{number}"}
        date = f"2026010{number}"
        orthanc.upload(write_series(tmp_path / str(number), ct.voxels, ct.affine, StudyDate=date, **about))
    found = list_series(connection, {"Modality": "CT", "StudyDate": "20260102-20260103"})
    assert {one.study_uid for one in found.series} == {"1.2.40.2", "1.2.40.3"}
    assert found.notes == ()


def test_a_cohort_comes_from_it_and_goes_back_to_it(connection, orthanc, small_artifact, tmp_path):
    pytest.importorskip("highdicom", reason="the extra dicom is not installed")
    ct, studies = real_ct(3, 40, 36), [f"1.2.60.{number}" for number in (1, 2, 3)]
    for uid in studies:
        about = {"SeriesInstanceUID": f"{uid}.7", "StudyInstanceUID": uid, "StudyDate": "20260301"}
        orthanc.upload(write_series(tmp_path / uid, ct.voxels, ct.affine, **about))
    settings = CohortSettings(name="{case}.seg.dcm", pool=PoolSettings(workers=2))
    for resume in (False, True):
        cases = archive_cases(Archive(orthanc.url), {"Modality": "CT", "StudyDate": "20260301"})
        outcome = segment_cohort(
            small_artifact,
            cases,
            tmp_path / "out",
            settings=replace(settings, resume=resume),
            target=Archive(orthanc.url),
        )
        assert outcome.passed
        assert len(outcome.sent) == 3
        assert len(outcome.skipped if resume else outcome.done) == 3
    for uid in studies:
        listed = list_series(connection, {"StudyInstanceUID": uid}).series
        [series] = [one for one in listed if one.modality == "SEG"]
        folder = tmp_path / f"seg of {uid}"
        folder.mkdir()
        [back] = retrieve(connection, series, folder)
        [written] = [
            path for path in (tmp_path / "out").glob("*.seg.dcm") if path.name.startswith(series_hash(f"{uid}.7"))
        ]
        assert back.read_bytes() == written.read_bytes() or pydicom.dcmread(back) == pydicom.dcmread(written)


def test_what_it_does_not_have_is_told(connection, tmp_path):
    with pytest.raises(ArchiveDataError) as raised:
        choose_listed(connection, "1.2.5.6.7")
    assert raised.value.reason == "no_such_study"


def test_a_broken_object_is_refused_for_good(connection, tmp_path):
    ct = real_ct(2, 12, 10)
    dataset = pydicom.dcmread(write_series(tmp_path, ct.voxels, ct.affine)[0])
    del dataset.PatientID, dataset.StudyInstanceUID
    with pytest.raises(ArchiveError) as raised:
        store(connection, dataset)
    assert raised.value.reason in {"object_refused", "refused", "not_understood"}


def test_it_wants_a_password_over_basic(tmp_path):
    with Orthanc(tmp_path / "orthanc", dicomweb=True, user=("me", "s3cret")) as orthanc:
        for text in ("", "basic me:wrong", "bearer s3cret"):
            given = Credentials.of(text, "a test") if text else None
            with Connection(Archive(orthanc.url, given)) as connection, pytest.raises(ArchiveError) as raised:
                connection.check()
            assert (raised.value.reason, raised.value.status) == ("credentials_refused", 401)
        with Connection(Archive(orthanc.url, Credentials.of("basic me:s3cret", "a test"))) as connection:
            connection.check()
