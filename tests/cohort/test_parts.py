"""What came of every case as Parquet: each case once, whole parts as they are done, the same after a resumed run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medattn_edge.cohort import CohortSettings, PoolSettings, parts, segment_cohort
from medattn_edge.cohort.case import Failure
from medattn_edge.cohort.case_result import CaseResult
from medattn_edge.cohort.parts import PARTS, Row
from medattn_edge.errors import MissingDependency, OutputError
from tests.cohort.conftest import scan

parquet = pytest.importorskip("pyarrow.parquet", reason="the extra parquet is not installed")
ASKED = CohortSettings(parquet=True)


def rows(out: Path) -> list[dict[str, Any]]:
    """Of all parts together, in order."""
    return [row for path in sorted((out / PARTS).iterdir()) for row in parquet.read_table(path).to_pylist()]


@pytest.fixture
def three(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five scans in parts of two, the third of which is none."""
    monkeypatch.setattr(parts, "CASES_OF_A_PART", 2)
    for number in range(5):
        scan(tmp_path / "scans" / f"s{number}.nii", number)
    (tmp_path / "scans" / "s2.nii").write_bytes(b"nothing")
    return tmp_path / "scans"


def test_every_case_has_one_row_with_what_its_record_says(small_artifact: Path, three: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcome = segment_cohort(small_artifact, three, out, settings=ASKED)
    assert sorted(path.name for path in (out / PARTS).iterdir()) == [
        f"part-0000{number}.parquet" for number in range(3)
    ]
    found = rows(out)
    assert [row["case"] for row in found] == [f"s{number}" for number in range(5)]
    assert [row["status"] for row in found] == ["done", "done", "refused", "done", "done"]
    done = outcome.done[0]
    assert found[0]["labels"][0]["voxels"] == done["labels"][0]["voxels"]
    assert found[0]["seconds"] == pytest.approx(sum(done["seconds"].values()))
    assert {file["name"] for file in found[0]["files"]} == set(done["files"])
    assert len(found[0]["artifact_sha256"]) == len(found[0]["scan_sha256"]) == 64
    refused = found[2]
    assert (refused["code"], refused["labels"]) == (outcome.failures[0].code, None)
    assert refused["message"] == outcome.failures[0].message
    assert outcome.to_json()["tables"][-1] == PARTS


def test_a_part_is_there_when_its_last_case_is_done_and_not_before(
    small_artifact: Path, three: Path, tmp_path: Path
) -> None:
    out, seen = tmp_path / "out", list[list[str]]()

    def look(case: str, done: float, total: int) -> None:
        if done == int(done):
            seen.append(sorted(path.name for path in (out / PARTS).glob("*.parquet")))

    segment_cohort(small_artifact, three, out, settings=ASKED, progress=look)
    counts = [len(names) for names in seen]
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert 0 < counts[-1] <= 3


def test_a_resumed_run_has_the_same_rows_and_another_list_only_its_own(
    small_artifact: Path, three: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    segment_cohort(small_artifact, three, out, settings=ASKED)
    before = {path.name: path.read_bytes() for path in (out / PARTS).iterdir()}
    again = CohortSettings(parquet=True, resume=True)
    outcome = segment_cohort(small_artifact, three, out, settings=again)
    assert len(outcome.skipped) == 4
    assert {path.name: path.read_bytes() for path in (out / PARTS).iterdir()} == before
    (three / "s0.nii").unlink()
    segment_cohort(small_artifact, three, out, settings=again)
    assert [row["case"] for row in rows(out)] == ["s1", "s2", "s3", "s4"]


def test_a_run_that_does_not_ask_leaves_no_parts_of_an_earlier_one(
    small_artifact: Path, three: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    segment_cohort(small_artifact, three, out, settings=ASKED)
    segment_cohort(small_artifact, three, out, settings=CohortSettings(resume=True))
    assert not (out / PARTS).exists()


def test_workers_write_the_same_rows(small_artifact: Path, three: Path, tmp_path: Path) -> None:
    asked = CohortSettings(parquet=True, pool=PoolSettings(workers=2))
    segment_cohort(small_artifact, three, tmp_path / "two", settings=asked)
    segment_cohort(small_artifact, three, tmp_path / "one", settings=ASKED)
    taken = ("case", "status", "code", "labels", "files", "scan_sha256", "artifact_sha256")
    two, one = ([{name: row[name] for name in taken} for row in rows(tmp_path / each)] for each in ("two", "one"))
    assert two == one


def test_a_part_that_cannot_be_written_ends_the_run_with_the_reason(
    small_artifact: Path, three: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / PARTS).write_text("a file")
    with pytest.raises(OutputError, match="File exists"):
        segment_cohort(small_artifact, three, out, settings=CohortSettings(parquet=True, resume=True))


def test_without_pyarrow_the_extra_is_named_and_nothing_is_done(
    small_artifact: Path, three: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match="pyarrow"):
        segment_cohort(small_artifact, three, tmp_path / "out", settings=ASKED)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("code", "left_out", "status"),
    [
        ("unreadable", False, "refused"),
        ("worker_lost", False, "failed"),
        ("backend", False, "failed"),
        ("other_modality", True, "left_out"),
        ("unexpected", False, "failed"),
        ("no_connection", False, "failed"),
        ("missing_objects", False, "refused"),
    ],
)
def test_what_is_the_scans_fault_is_told_from_what_is_ours(code: str, left_out: bool, status: str) -> None:
    failure = Failure("case", "scan", code, "a message", "a hint")
    assert Row.of(failure, CaseResult(failure=failure, left_out=left_out)).status == status
