"""The DICOM results of a cohort in an archive: each once, what it does not take later, and every failure a row."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
pytest.importorskip("highdicom", reason="the extra dicom is not installed")
pytest.importorskip("dicomweb_client", reason="the extra dicomweb is not installed")

from medattn_edge.cohort import CohortOutcome, CohortSettings, PoolSettings, find_cases, segment_cohort  # noqa: E402
from medattn_edge.cohort import sending as sending_module  # noqa: E402
from medattn_edge.errors import UsageError  # noqa: E402
from medattn_edge.io.dicom.series import series_hash  # noqa: E402
from medattn_edge.io.dicomweb.address import Archive  # noqa: E402
from medattn_edge.io.dicomweb.errors import ArchiveError  # noqa: E402
from tests.support.dicom_phantoms import real_ct, write_series  # noqa: E402
from tests.support.web_archive import WebArchive, parts_of, report  # noqa: E402

SERIES = tuple(f"1.2.3.{number}" for number in range(1, 4))
SEG = CohortSettings(name="{case}.seg.dcm", rtstruct="{case}.rtstruct.dcm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, ct = tmp_path_factory.mktemp("studies"), real_ct(3, 40, 36)
    for uid in SERIES:
        write_series(root / uid, ct.voxels, ct.affine, SeriesInstanceUID=uid, StudyInstanceUID=f"{uid}.9")
    return root


@pytest.fixture
def target(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebArchive]:
    monkeypatch.setattr(sending_module, "PAUSES_S", (0.0, 0.01, 0.02))
    with WebArchive() as running:
        yield running


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def run(folder: Path, small_artifact: Path, target: WebArchive, out: Path) -> Any:
    def segment(settings: CohortSettings = SEG, archive: Archive | None = None, **more: Any) -> CohortOutcome:
        settings = CohortSettings(**{**vars(settings), **more})
        archive = archive or Archive(target.url, timeout_s=5)
        return segment_cohort(small_artifact, find_cases([folder]), out, settings=settings, target=archive)

    return segment


def rows(path: Path) -> dict[str, str]:
    with path.open() as file:
        return {row["case"]: row["code"] for row in csv.DictReader(file)}


def stored(target: WebArchive) -> list[str]:
    return sorted(str(one.SOPInstanceUID) for one in target.stored)


def on_disk(out: Path) -> list[str]:
    return sorted(str(pydicom.dcmread(path).SOPInstanceUID) for path in out.glob("*.dcm"))


def refusing(case: str, answer: Any) -> Any:
    """A fault that answers so to the objects of the series with a hash."""

    def fault(request: Any) -> bool:
        if request.command != "POST":
            return False
        data = pydicom.dcmread(BytesIO(parts_of(request.body)[0]))
        study = str(data.StudyInstanceUID).removesuffix(".9")
        if series_hash(study) == case:
            answer(request, str(data.SOPInstanceUID))
            return True
        return False

    return fault


@pytest.mark.parametrize("workers", [1, 2])
def test_every_case_is_stored_once_and_its_files_stay(run: Any, target: WebArchive, out: Path, workers: int) -> None:
    outcome = run(pool=PoolSettings(workers=workers))
    assert outcome.passed
    assert set(outcome.sent) == set(map(series_hash, SERIES))
    assert len(stored(target)) == 2 * len(SERIES)
    assert stored(target) == on_disk(out)
    assert outcome.to_json()["sent"] == {"to": target.url, "cases": list(outcome.sent)}

    target.stored.clear()
    again = run(resume=True)
    assert set(again.skipped) == set(again.sent) == set(outcome.sent)
    assert target.stored == [], "what is stored is not sent again"


def test_an_earlier_run_is_sent_by_going_on_with_it(
    run: Any, folder: Path, small_artifact: Path, target: WebArchive, out: Path
) -> None:
    segment_cohort(small_artifact, find_cases([folder]), out, settings=SEG)
    outcome = run(resume=True)
    assert not outcome.done
    assert len(outcome.sent) == len(SERIES)
    assert stored(target) == on_disk(out)


def test_what_an_archive_refuses_is_a_row_and_the_others_are_stored(run: Any, target: WebArchive, out: Path) -> None:
    bad = series_hash(SERIES[1])
    target.fault = refusing(bad, lambda request, uid: request.reply_json(report(failed=[{"uid": uid, "code": 0xA900}])))
    outcome = run()
    assert not outcome.passed
    assert rows(out / "failures.csv") == {bad: "data_set_mismatch"}
    assert "segmented, and not stored" in outcome.failures[0].message
    assert set(outcome.sent) == set(map(series_hash, SERIES)) - {bad}
    assert len(outcome.done) == len(SERIES), "it was segmented"
    assert bad in (out / "volumes.csv").read_text()
    assert (out / f"{bad}.seg.dcm").is_file()

    target.fault = None
    again = run(resume=True)
    assert again.passed
    assert stored(target) == on_disk(out)


def test_a_warning_of_the_archive_is_told(run: Any, target: WebArchive) -> None:
    def warned(request: Any, uid: str) -> None:
        request.reply_json(report(referenced=[{"uid": uid, "code": 0xB000}]))

    target.fault = refusing(series_hash(SERIES[0]), warned)
    outcome = run()
    assert outcome.passed
    assert "the archive stored a result with the warning 0xB000 (1 of 3 cases)" in outcome.notes


def test_an_archive_that_is_down_for_a_while_gets_everything_in_the_end(
    run: Any, target: WebArchive, out: Path
) -> None:
    asked: list[str] = []

    def restarting(request: Any) -> bool:
        if request.command == "POST" and len(asked) < 2:
            asked.append(request.path)
            request.reply(401, b"")
            return True
        return False

    target.fault = restarting
    outcome = run()
    assert outcome.passed, outcome.failures
    assert len(asked) == 2, "while it was held to be down no other case was tried"
    assert stored(target) == on_disk(out)
    assert rows(out / "failures.csv") == {}


def test_one_that_stays_down_costs_no_result(run: Any, target: WebArchive, out: Path) -> None:
    def down(request: Any) -> bool:
        if request.command == "POST":
            request.reply(401, b"")
            return True
        return False

    target.fault = down
    outcome = run()
    assert rows(out / "failures.csv") == dict.fromkeys(map(series_hash, SERIES), "credentials_refused")
    assert len(on_disk(out)) == 2 * len(SERIES)
    assert outcome.sent == ()
    posts = [path for method, path, _ in target.requests if method == "POST"]
    assert len(posts) == 1 + len(sending_module.PAUSES_S), "one try a round: the next case would meet the same"
    target.fault = None
    assert run(resume=True).passed
    assert stored(target) == on_disk(out)


def test_what_is_half_stored_goes_on_where_it_stopped(run: Any, target: WebArchive, out: Path) -> None:
    outcome = run()
    record = out / f"{outcome.sent[0]}.json"
    value = json.loads(record.read_text())
    names = sorted(value["sent"][target.url])
    assert names == sorted(name for name in value["files"] if name.endswith(".dcm"))
    del value["sent"][target.url][names[0]]
    record.write_text(json.dumps(value))
    target.stored.clear()
    assert len(run(resume=True).sent) == len(SERIES)
    assert stored(target) == [str(pydicom.dcmread(out / names[0]).SOPInstanceUID)]


def test_another_archive_gets_what_the_first_has(run: Any, out: Path) -> None:
    run()
    with WebArchive() as second:
        outcome = run(archive=Archive(second.url, timeout_s=5), resume=True)
        assert len(outcome.sent) == len(SERIES)
        assert stored(second) == on_disk(out)


def test_nothing_is_done_where_nothing_could_be_sent(run: Any, target: WebArchive, out: Path) -> None:
    with pytest.raises(UsageError, match="with the labels") as refused:
        run(CohortSettings())
    assert "--name" in refused.value.hint
    with pytest.raises(ArchiveError, match="nobody answers"):
        run(archive=Archive("http://127.0.0.1:9/dicom-web", timeout_s=1))
    target.fault = lambda request: request.reply(401, b"") or True
    with pytest.raises(ArchiveError, match="wants credentials"):
        run()
    assert not out.exists()


def test_an_archive_that_lists_nothing_may_store(run: Any, target: WebArchive, out: Path) -> None:
    target.fault = lambda request: request.command == "GET" and (request.reply(400, b"") or True)
    assert run().passed
    assert stored(target) == on_disk(out)


def test_a_case_whose_files_somebody_took_away_is_made_again(run: Any, target: WebArchive, out: Path) -> None:
    first = run()
    target.stored.clear()
    name = f"{first.sent[0]}.seg.dcm"
    shutil.move(out / name, out.parent / name)
    outcome = run(resume=True)
    assert [one["case"] for one in outcome.done] == [first.sent[0]]
    assert len(outcome.sent) == len(SERIES)


def test_the_table_of_cases_says_failed_of_what_is_not_stored(run: Any, target: WebArchive, out: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="the extra parquet is not installed")
    bad = series_hash(SERIES[0])
    target.fault = refusing(bad, lambda request, uid: request.reply_json(report(failed=[{"uid": uid, "code": 0xA900}])))
    run(parquet=True)
    table = {row["case"]: row for row in parquet.read_table(out / "parts").to_pylist()}
    assert {case: row["status"] for case, row in table.items()} == {
        series_hash(uid): "failed" if series_hash(uid) == bad else "done" for uid in SERIES
    }
    assert table[bad]["code"] == "data_set_mismatch"
