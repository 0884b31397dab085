"""What an archive would take follows from the records of cases that were measured, by formulas that are told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medattn_edge.artifact import sha256
from medattn_edge.cohort import estimate, segment_cohort
from medattn_edge.cohort.records import write_record
from medattn_edge.errors import InputError, UsageError

SHA = "a" * 64


def record(path: Path, cpu: float, read: int, written: int, artifact: str = SHA) -> None:
    value: dict[str, Any] = {"fingerprint": {"artifact_sha256": artifact}, "labels": [], "files": {}}
    write_record(path, value | {"cpu_seconds": cpu, "scan_bytes": read, "written_bytes": written})


def test_a_million_studies_by_hand(tmp_path: Path) -> None:
    record(tmp_path / "a.json", 5.0, 140_000_000, 1_000_000)
    record(tmp_path / "b.json", 6.2, 146_000_000, 3_000_000)
    record(tmp_path / "other.json", 900.0, 1, 1, artifact="b" * 64)
    (tmp_path / "foreign.json").write_text("{}")
    found = estimate(tmp_path, 1_000_000, SHA, 2)
    assert (found.cases, found.not_counted) == (2, 1)
    assert found.cpu_seconds.mean == pytest.approx(5.6)
    assert found.cpu_seconds.max == 6.2
    assert found.cpu_seconds.standard_error_percent == pytest.approx(100 * 0.6 / 5.6)
    assert found.core_hours == pytest.approx(1e6 * 5.6 / 3600 / 0.9)
    assert round(found.core_hours) == 1728
    assert found.days == pytest.approx(found.core_hours / 48)
    assert found.terabytes_read == pytest.approx(143)
    assert found.terabytes_written == pytest.approx(2)
    seconds = 143e12 * 8 / 1e9
    assert found.network_days == pytest.approx({"1 Gb/s": seconds / 86400, "10 Gb/s": seconds / 864000})
    assert found.network_days["1 Gb/s"] == pytest.approx(13.24, abs=0.01)
    assert found.fed_cores["10 Gb/s"] == pytest.approx(54.4, abs=0.1)
    assert estimate(tmp_path, 2_000_000, SHA, 2).core_hours == pytest.approx(2 * found.core_hours)
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert document["formulas"].keys() >= {"core_hours", "days_of_network"}


def test_a_single_case_has_no_error_of_its_mean(tmp_path: Path) -> None:
    record(tmp_path / "a.json", 5.0, 1000, 10)
    assert estimate(tmp_path, 1, SHA, 1).cpu_seconds.standard_error_percent is None


def test_what_was_segmented_here_has_the_figures(small_artifact: Path, scans: Path, tmp_path: Path) -> None:
    outcome = segment_cohort(small_artifact, scans, tmp_path / "out")
    found = estimate(tmp_path / "out", 10, sha256(small_artifact), 1)
    assert found.cases == 2
    files = [scans / "a.nii.gz", scans / "deep" / "b.nii"]
    assert found.scan_bytes.mean == sum(path.stat().st_size for path in files) / 2
    assert found.scan_bytes.max == max(path.stat().st_size for path in files)
    sizes = [(tmp_path / "out" / name).stat().st_size for one in outcome.done for name in one["files"]]
    assert found.written_bytes.mean == sum(sizes) / 2
    assert 0 < found.cpu_seconds.mean < 60


def test_without_figures_nothing_is_made_up(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="0 studies"):
        estimate(tmp_path, 0, SHA, 1)
    with pytest.raises(InputError, match="0 records") as error:
        estimate(tmp_path, 5, SHA, 1)
    assert "--estimate 5" in error.value.hint
    record(tmp_path / "a.json", 0.0, 1000, 10)
    with pytest.raises(InputError, match="1 records"):
        estimate(tmp_path, 5, SHA, 1)
