"""infer from an archive's DICOMweb address and to it: the labels of a folder, and every refusal with its exit code."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medattn_edge.io import read_labels

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
pytest.importorskip("highdicom", reason="the extra dicom is not installed")
pytest.importorskip("dicomweb_client", reason="the extra dicomweb is not installed")

from medattn_edge.cli.infer_archive import ArchiveOptions  # noqa: E402
from medattn_edge.io.dicom.volume import find_series  # noqa: E402
from medattn_edge.io.dicomweb.address import TIMEOUT_S  # noqa: E402
from medattn_edge.io.dicomweb.query import MOST_SERIES  # noqa: E402
from tests.support.dicom_phantoms import real_ct, write_series  # noqa: E402
from tests.support.web_archive import WebArchive, report  # noqa: E402

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    ct = real_ct(3, 32, 32)
    return write_series(tmp_path_factory.mktemp("series"), ct.voxels, ct.affine)


@pytest.fixture(scope="module")
def study(files: list[Path]) -> str:
    return str(pydicom.dcmread(files[0]).StudyInstanceUID)


@pytest.fixture
def archive(files: list[Path]) -> Iterator[WebArchive]:
    with WebArchive(files) as running:
        yield running


def refused(done: Any, code: int) -> Any:
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)["error"]


def test_a_series_of_an_archive_is_segmented_as_the_same_files_in_a_folder(
    medattn: Run, artifact: Path, archive: WebArchive, files: list[Path], study: str, tmp_path: Path, monkeypatch: Any
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    done = medattn("infer", artifact, archive.url, "--study", study, "-o", tmp_path / "web.nii.gz", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    (series,) = find_series(files[0].parent)
    assert told["scan"] == f"{archive.url} series {series.hash}"
    assert told["series"]["slices"] == 3
    assert list((tmp_path / "temporary").iterdir()) == []
    identifiers = {study, series.series_instance_uid, "Phantom"}
    assert not [one for one in identifiers if one in done.stdout + done.stderr]
    assert medattn("infer", artifact, files[0].parent, "-o", tmp_path / "folder.nii.gz").returncode == 0
    ours, theirs = (read_labels(tmp_path / f"{name}.nii.gz") for name in ("web", "folder"))
    np.testing.assert_array_equal(ours.voxels, theirs.voxels)
    np.testing.assert_array_equal(ours.affine, theirs.affine)
    assert ours.voxels.any()


def test_results_go_to_an_archive_and_the_files_stay(
    medattn: Run, artifact: Path, archive: WebArchive, study: str, tmp_path: Path
) -> None:
    words = ["infer", artifact, archive.url, "--study", study, "-o", tmp_path / "seg.dcm", "--to", archive.url]
    words += ["--rtstruct", tmp_path / "c.rtstruct.dcm", "--sr", tmp_path / "v.sr.dcm", "--overlay", tmp_path / "o.png"]
    done = medattn(*words, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["sent"] == {"labels": "stored", "sr": "stored", "rtstruct": "stored"}
    names = ("seg.dcm", "v.sr.dcm", "c.rtstruct.dcm")
    assert archive.stored == [pydicom.dcmread(tmp_path / name) for name in names]


def test_a_result_that_is_not_stored_is_an_error_that_names_the_file(
    medattn: Run, artifact: Path, archive: WebArchive, files: list[Path], tmp_path: Path
) -> None:
    failed = {"uid": "", "code": 0xA700}

    def no_room(request: Any) -> bool:
        failed["uid"] = pydicom.dcmread(tmp_path / "seg.dcm").SOPInstanceUID
        request.reply_json(report(failed=[failed]), 409)
        return True

    archive.fault = no_room
    words = ("infer", artifact, files[0].parent, "-o", tmp_path / "seg.dcm", "--to", archive.url, "--json")
    error = refused(medattn(*words), 3)
    assert error["code"] == "archive"
    assert error["message"].startswith("seg.dcm was written and not stored: ")
    assert "it says that it has no room" in error["message"]
    assert (tmp_path / "seg.dcm").is_file()


def test_a_damaged_series_says_what_is_wrong_with_it_and_not_where_it_lay(
    medattn: Run, artifact: Path, archive: WebArchive, study: str, tmp_path: Path
) -> None:
    archive.contents[1] = archive.contents[1][:-100]
    words = ("infer", artifact, archive.url, "--study", study, "-o", tmp_path / "x.nii.gz", "--json")
    error = refused(medattn(*words), 4)
    assert error["code"] == "scan"
    assert "before its pixel data" in error["message"]
    assert "medattn-edge-" not in error["message"] + error["hint"]


@pytest.fixture
def infer(medattn: Run, artifact: Path) -> Run:
    return lambda *words: medattn("infer", artifact, *words)


@pytest.fixture
def places(archive: WebArchive, files: list[Path], study: str) -> dict[str, object]:
    return {"url": archive.url, "study": study, "folder": files[0].parent}


def test_the_defaults_of_the_command_are_those_of_the_library() -> None:
    assert (ArchiveOptions().timeout_s, ArchiveOptions().limit) == (TIMEOUT_S, MOST_SERIES)


SCAN = ("{url}", "--study", "{study}")


@pytest.mark.parametrize(
    ("words", "code", "found"),
    [
        (("{url}",), 2, "without a study"),
        (("{url}", "--study", "1.2/3"), 2, "no UID"),
        (("{folder}", "--study", "1.2"), 2, "--study without an archive"),
        (("{folder}", "--credentials", "x"), 2, "--credentials without an archive"),
        (("{folder}", "--query", "Modality=CT"), 2, "--query without an archive"),
        (("{folder}", "--limit", "5"), 2, "--limit without an archive"),
        (("{url}", "--query", "Modality=CT"), 2, "--query with one file"),
        (("{folder}", "--timeout", "5"), 2, "--timeout without an archive"),
        (("{url}", "{url}", "--study", "{study}"), 2, "beside other scans"),
        ((*SCAN, "--timeout", "0"), 2, "--timeout 0"),
        ((*SCAN, "--geometry", "sform"), 2, "--geometry with an archive"),
        ((*SCAN, "--pixel-spacing", "1x1"), 2, "--pixel-spacing with an archive"),
        ((*SCAN, "--resample-to-first"), 2, "--resample-to-first with an archive"),
        ((*SCAN, "--to", "{url}"), 2, "--to with 'x.nii.gz'"),
        (("dicomweb://127.0.0.1/x", "--study", "1.2"), 2, "the scheme dicomweb://"),
        (("{folder}", "--to", "pacs"), 2, "'pacs', which is no address"),
        (("{folder}", "--send", "{url}"), 2, "--send is now --to"),
        (("--from", "pacs", "--study", "{study}"), 2, "'pacs', which is no address"),
        (("--from", "{url}", "{folder}", "--study", "{study}"), 2, "beside other scans"),
        ((*SCAN, "--to-credentials", "x"), 2, "--to-credentials without an archive"),
        ((), 2, "nothing to segment"),
        ((*SCAN, "--credentials", "{folder}/none"), 2, "cannot be read"),
        ((*SCAN, "--ca", "{folder}/none"), 2, "has no TLS"),
        ((*SCAN, "--series", "1.2.3"), 4, "the study has no such series"),
        (("{url}", "--study", "1.2.3"), 4, "it has no series of that study"),
        (("http://127.0.0.1:9/x", "--study", "1.2.3"), 3, "nobody answers"),
    ],
)
def test_what_cannot_be_is_refused_with_its_exit_code_and_nothing_is_written(
    infer: Run, places: dict[str, object], tmp_path: Path, words: tuple[str, ...], code: int, found: str
) -> None:
    given = [word.format(**places) for word in words]
    error = refused(infer(*given, "-o", tmp_path / "x.nii.gz", "--json"), code)
    assert found in error["message"]
    assert error["hint"]
    assert list(tmp_path.iterdir()) == []


def test_outputs_that_cannot_be_written_are_told_before_anything_is_retrieved(
    medattn: Run, artifact: Path, archive: WebArchive, study: str, tmp_path: Path
) -> None:
    refused(medattn("infer", artifact, archive.url, "--study", study, "-o", tmp_path / "x.unknown", "--json"), 2)
    refused(medattn("infer", artifact, archive.url, "--study", study, "-o", tmp_path / "none" / "x.nrrd", "--json"), 3)
    assert not [path for _, path, _ in archive.requests if "instances" in path]


def test_credentials_of_one_archive_are_not_told_to_another(
    medattn: Run, artifact: Path, archive: WebArchive, study: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("MEDATTN_EDGE_DICOMWEB_CREDENTIALS", "bearer t0ken")
    words = ("infer", artifact, archive.url, "--study", study, "-o", tmp_path / "seg.dcm")
    error = refused(medattn(*words, "--to", "http://127.0.0.1:9/dicom-web", "--json"), 2)
    assert "the same credentials" in error["message"]
    assert error["hint"] == "--to-credentials FILE with those of the second"
    assert archive.requests == []
    done = medattn(*words, "--to", archive.url)
    assert done.returncode == 0, done.stderr
    assert {headers["Authorization"] for *_, headers in archive.requests} == {"Bearer t0ken"}
    assert "t0ken" not in done.stdout + done.stderr
    archive.requests.clear()
    (tmp_path / "other").write_text("basic node:s3cret")
    (tmp_path / "other").chmod(0o600)
    with WebArchive() as other:
        done = medattn(*words, "--to", other.url, "--to-credentials", tmp_path / "other")
        assert done.returncode == 0, done.stderr
        assert {headers["Authorization"] for *_, headers in archive.requests} == {"Bearer t0ken"}
        assert {headers["Authorization"] for *_, headers in other.requests} == {"Basic bm9kZTpzM2NyZXQ="}


def test_a_query_makes_a_folder_of_results_and_every_series_is_a_case(
    medattn: Run, artifact: Path, archive: WebArchive, files: list[Path], study: str, tmp_path: Path
) -> None:
    out = f"{tmp_path}/out/"
    done = medattn("infer", artifact, archive.url, "--query", "Modality=CT", "-o", out, "--json")
    assert done.returncode == 0, done.stderr
    (series,) = find_series(files[0].parent)
    assert [one["case"] for one in json.loads(done.stdout)["done"]] == [series.hash]
    again = medattn("infer", artifact, archive.url, "--study", study, "-o", out, "--resume", "--json")
    assert json.loads(again.stdout)["skipped"] == [series.hash]


def test_a_cohort_comes_from_an_archive_and_goes_to_one(
    medattn: Run, artifact: Path, archive: WebArchive, files: list[Path], tmp_path: Path
) -> None:
    (series,) = find_series(files[0].parent)
    with WebArchive() as target:
        words = ["infer", artifact, "--from", archive.url, "--query", "Modality=CT", "-o", f"{tmp_path}/out/"]
        words += ["--name", "{case}.seg.dcm", "--to", target.url]
        done = medattn(*words)
        assert done.returncode == 0, done.stderr
        assert f"in the archive {target.url}: the DICOM results of 1 of 1 cases" in " ".join(done.stdout.split())
        assert target.stored == [pydicom.dcmread(tmp_path / "out" / f"{series.hash}.seg.dcm")]
        again = medattn(*words, "--resume", "--json")
        assert json.loads(again.stdout)["sent"] == {"to": target.url, "cases": [series.hash]}
        assert len(target.stored) == 1


@pytest.mark.parametrize(
    ("words", "code", "found"),
    [
        ((), 2, "and no query"),
        (("--query", "Modalty=CT"), 2, "the part 'Modalty' of a query"),
        (("--query", "Modality=MR"), 4, "no series of that study or query"),
        (("--study", "x"), 2, "no UID"),
        (("--query", "Modality=CT", "--to", "{url}"), 2, "with the labels"),
        (("--query", "Modality=CT", "--series", "1.2"), 2, "--series 1.2 with a folder"),
        (("--query", "Modality=CT", "--geometry", "sform"), 2, "--geometry with an archive"),
    ],
)
def test_a_query_that_cannot_be_is_refused_and_no_folder_is_made(
    infer: Run, places: dict[str, object], tmp_path: Path, words: tuple[str, ...], code: int, found: str
) -> None:
    given = [word.format(**places) for word in words]
    error = refused(infer(places["url"], *given, "-o", f"{tmp_path}/out/", "--json"), code)
    assert found in error["message"]
    assert list(tmp_path.iterdir()) == []
