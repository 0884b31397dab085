"""A cohort of an archive: each series retrieved once, segmented as the same files in a folder, and gone afterwards."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
pytest.importorskip("dicomweb_client", reason="the extra dicomweb is not installed")

from medattn_edge.cohort import CohortSettings, PoolSettings, archive_cases, segment_cohort  # noqa: E402
from medattn_edge.errors import UsageError  # noqa: E402
from medattn_edge.io.dicom.series import series_hash  # noqa: E402
from medattn_edge.io.dicomweb.address import Archive, Credentials  # noqa: E402
from medattn_edge.io.dicomweb.errors import ArchiveDataError  # noqa: E402
from tests.support.dicom_phantoms import real_ct, write_series  # noqa: E402
from tests.support.ray_runs import RAY  # noqa: E402
from tests.support.web_archive import WebArchive  # noqa: E402

ENGINES = ("local", pytest.param("ray", marks=RAY))
GOOD, OTHER, BROKEN, SCOUT, REPORT = (f"1.2.3.{number}" for number in range(1, 6))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two good series, a damaged one, a scout and something that is no image, each of a study of its own."""
    root, ct = tmp_path_factory.mktemp("studies"), real_ct(3, 40, 36)
    changes: dict[str, dict[str, Any]] = {
        GOOD: {},
        OTHER: {},
        BROKEN: {},
        SCOUT: {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
        REPORT: {"Modality": "SR"},
    }
    for uid, more in changes.items():
        files = write_series(
            root / uid, ct.voxels, ct.affine, SeriesInstanceUID=uid, StudyInstanceUID=f"{uid}.9", **more
        )
        if uid == BROKEN:
            files[1].write_bytes(files[1].read_bytes()[:-50])
    return root


@pytest.fixture
def archive(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebArchive]:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    with WebArchive(sorted(folder.rglob("*.dcm"))) as running:
        yield running
    assert list((tmp_path / "temporary").iterdir()) == [], "files of a patient stayed"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def retrievals(archive: WebArchive) -> list[str]:
    return [path.split("/")[-1] for _, path, _ in archive.requests if "?" not in path]


def run(archive: WebArchive, artifact: Path, out: Path, **settings: Any) -> Any:
    cases = archive_cases(Archive(archive.url, timeout_s=5), {"StudyDate": "20200101-20200101"})
    return segment_cohort(artifact, cases, out, settings=CohortSettings(**settings))


def test_every_series_is_a_case_and_what_fails_has_its_reason(archive, folder, small_artifact, tmp_path):
    outcome = run(archive, small_artifact, tmp_path / "out")
    good, other, broken, scout, report = map(series_hash, (GOOD, OTHER, BROKEN, SCOUT, REPORT))
    assert {record["case"] for record in outcome.done} == {good, other}
    assert {(one["case"], one["code"]) for one in rows(tmp_path / "out" / "failures.csv")} == {(broken, "truncated")}
    assert {(one["case"], one["code"]) for one in rows(tmp_path / "out" / "left_out.csv")} == {
        (scout, "localizer"),
        (report, "unsupported_modality"),
    }
    assert sorted(retrievals(archive)) == [GOOD, OTHER, BROKEN, SCOUT]
    told = " ".join(path.read_text() for path in (tmp_path / "out").glob("*.[cj]s*"))
    assert not [one for one in ("Phantom", "temporary", "000001", GOOD) if one in told]

    segment_cohort(small_artifact, folder / GOOD, tmp_path / "same")
    assert rows(tmp_path / "same" / "volumes.csv") == [
        row for row in rows(tmp_path / "out" / "volumes.csv") if row["case"].startswith(good)
    ]
    ours, theirs = (tmp_path / name / f"{good}_labels.nii.gz" for name in ("out", "same"))
    assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize("engine", ENGINES)
def test_workers_retrieve_what_they_segment_and_the_files_are_those_of_one_process(
    archive, small_artifact, tmp_path, engine, monkeypatch
):
    alone = run(archive, small_artifact, tmp_path / "alone")
    if engine == "ray":  # whose sockets need a short path
        monkeypatch.setattr("tempfile.tempdir", "/tmp")
    archive.requests.clear()
    outcome = run(archive, small_artifact, tmp_path / "out", pool=PoolSettings(workers=2, engine=engine))
    assert outcome.workers == 2
    assert [record["files"] for record in outcome.done] == [record["files"] for record in alone.done]
    assert [(one.case, one.code) for one in outcome.failures] == [(one.case, one.code) for one in alone.failures]
    assert {one.code for one in outcome.left_out} == {"localizer", "unsupported_modality"}
    assert sorted(retrievals(archive)) == [GOOD, OTHER, BROKEN, SCOUT], "each once, by a worker"
    again = run(archive, small_artifact, tmp_path / "out", pool=PoolSettings(workers=2, engine=engine), resume=True)
    assert set(again.skipped) == {series_hash(GOOD), series_hash(OTHER)}


def test_credentials_do_not_go_through_a_cluster_in_the_clear(archive, small_artifact, tmp_path):
    known = Archive(archive.url, Credentials.of("bearer t0ken", "a test"))
    cases = archive_cases(known, {"StudyDate": "20200101-20200101"})
    pool = PoolSettings(workers=2, engine="ray", address="127.0.0.1:6379")
    with pytest.raises(UsageError, match="for the workers of a cluster") as refused:
        segment_cohort(small_artifact, cases, tmp_path / "out", settings=CohortSettings(pool=pool))
    assert "t0ken" not in str(refused.value)
    assert retrievals(archive) == []
    assert not (tmp_path / "out").exists()


def test_what_a_killed_run_had_retrieved_is_gone_after_the_next_one(archive, small_artifact, tmp_path):
    out = tmp_path / "out"
    script = (
        "import os, sys\n"
        "from medattn_edge.cohort import archive_cases, segment_cohort\n"
        "from medattn_edge.io.dicomweb.address import Archive\n"
        "from medattn_edge.io.dicomweb.scan import ArchivedScan\n"
        "fetch = ArchivedScan.fetch\n"
        "ArchivedScan.fetch = lambda self, progress=None: (fetch(self, progress), os.kill(os.getpid(), 9))\n"
        "cases = archive_cases(Archive(sys.argv[1]), {'StudyDate': '20200101-20200101'})\n"
        "segment_cohort(sys.argv[2], cases, sys.argv[3])\n"
    )
    words = [sys.executable, "-c", script, archive.url, str(small_artifact), str(out)]
    killed = subprocess.run(words, env=os.environ | {"TMPDIR": str(tmp_path / "temporary")}, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert list(out.rglob("000001.dcm")), "it was killed with a series on the disk"
    run(archive, small_artifact, out, resume=True)
    assert not list(out.rglob("*.dcm"))


def test_what_is_done_is_not_retrieved_again_and_what_has_grown_is(archive, small_artifact, tmp_path):
    run(archive, small_artifact, tmp_path / "out")
    archive.requests.clear()
    again = run(archive, small_artifact, tmp_path / "out", resume=True)
    assert set(again.skipped) == {series_hash(GOOD), series_hash(OTHER)}
    assert sorted(retrievals(archive)) == [BROKEN, SCOUT]

    ct = real_ct(4, 40, 36)
    more = write_series(tmp_path / "more", ct.voxels, ct.affine, SeriesInstanceUID=GOOD, StudyInstanceUID=f"{GOOD}.9")
    known = {str(one.SOPInstanceUID) for one in archive.datasets}
    new = [path for path in more if str(pydicom.dcmread(path).SOPInstanceUID) not in known]
    assert len(new) == 1
    archive.contents.append(new[0].read_bytes())
    grown = run(archive, small_artifact, tmp_path / "out", resume=True)
    assert {record["case"] for record in grown.done} <= {series_hash(GOOD)}
    assert grown.skipped == (series_hash(OTHER),)
    assert GOOD in retrievals(archive)


def test_an_archive_that_fails_in_between_fails_its_case_and_the_next_run_makes_up_for_it(
    archive, small_artifact, tmp_path
):
    archive.fault = lambda request: request.path.endswith(f"/{GOOD}") and (request.reply(503, b"") or True)
    first = run(archive, small_artifact, tmp_path / "out")
    assert (series_hash(GOOD), "unavailable") in {(one.case, one.code) for one in first.failures}
    archive.fault = None
    second = run(archive, small_artifact, tmp_path / "out", resume=True)
    assert {record["case"] for record in second.done} == {series_hash(GOOD)}
    assert second.skipped == (series_hash(OTHER),)


def test_the_record_says_that_the_list_decided_and_not_the_bytes(archive, small_artifact, tmp_path):
    run(archive, small_artifact, tmp_path / "out")
    record = json.loads((tmp_path / "out" / f"{series_hash(GOOD)}.json").read_text())
    assert "scan_sha256" not in record["fingerprint"]
    assert len(record["fingerprint"]["scan_objects_sha256"]) == 64
    assert record["scan"] == f"series {series_hash(GOOD)}"


@pytest.mark.parametrize(
    ("filters", "most", "reason"),
    [({"Modality": "MR"}, 9, "no_such_study"), ({"Modality": "SR"}, 9, "no_such_study"), ({}, 2, "too_many_series")],
)
def test_a_query_without_scans_and_one_with_too_many_are_refused(archive, filters, most, reason):
    with pytest.raises(ArchiveDataError) as raised:
        archive_cases(Archive(archive.url), filters, most=most)
    assert raised.value.reason == reason
