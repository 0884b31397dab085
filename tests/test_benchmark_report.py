"""What people read of the benchmarks is what the committed results say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import report


def row(artifact: str, ratio: float | None, **more: Any) -> dict[str, Any]:
    """A row as the suite writes it; without a ratio it failed."""
    fails = ratio is None
    return {
        "artifact": artifact,
        "backend": "some",
        "precision": "fp32",
        "patch": [16, 16],
        "p50_ms": None if ratio is None else 10 / ratio,
        "p99_ms": None if ratio is None else 11 / ratio,
        "cold_start_ms": None if fails else 5.0,
        "peak_rss_mb": None if fails else 100.0,
        "ratio_to_reference": ratio,
        "ratio_spread": None if ratio is None else [ratio * 0.9, ratio * 1.1],
        "ratio_to_plain_onnx": ratio,
        "ratio_to_plain_onnx_spread": None if ratio is None else [ratio * 0.9, ratio * 1.1],
        "fraction_of_peak": None if fails else 0.5,
        "agreement": {"sqnr_db": 52.0 if fails else 130.0, "label_match": 1.0, "max_abs": 0.1},
        "verdict": "fail" if fails else "pass",
        "failures": ["SQNR in dB is 52, below 90"] if fails else [],
        **more,
    }


def document() -> dict[str, Any]:
    case = {"name": "small", "source": "", "weights": "initial", "judged_on": "noise"}
    rows = [row("eager", 1.0), row("fused.onnx", 2.0), row("int8.xml", 9.0, precision="int8"), row("bad", None)]
    return {"case": case, "environment": {"cpu": "a CPU", "threads": 2}, "rows": rows, "absent": {"gone": "no g++"}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "small.json").write_text(json.dumps(document()))
    (tmp_path / "project.md").write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    return tmp_path


def test_the_committed_report_is_what_the_results_say() -> None:
    assert report.stale(report.RESULTS, *report.PAGES) == []


def test_a_failing_row_has_its_reason_and_no_speed() -> None:
    line = next(line for line in report.table_of(document()).splitlines() if line.startswith("| bad "))
    assert "FAIL: SQNR in dB is 52, below 90" in line
    assert [cell.strip() for cell in line.split("|")[4:8]] == ["-", "-", "-", "-"]


def test_the_project_table_names_the_fastest_that_agree_and_the_failures(folder: Path) -> None:
    text = report.texts(folder, folder / "project.md")[folder / "project.md"]
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    line = next(line for line in text.splitlines() if line.startswith("| small"))
    assert "9.00" in line
    assert "int8.xml" in line
    assert line.rstrip(" |").endswith("bad")


def test_what_was_not_measured_is_said(folder: Path) -> None:
    assert "gone: not measured: no g++" in report.texts(folder, folder / "project.md")[folder / "README.md"]


def test_what_an_sqnr_is_worth_stands_above_the_rows(folder: Path) -> None:
    told = document()
    told["case"]["constant_db"] = 63.71
    (folder / "small.json").write_text(json.dumps(told))
    page = report.texts(folder, folder / "project.md")[folder / "README.md"]
    assert page.index("an SQNR of 63.7 dB") < page.index("| eager ")


def test_a_result_that_changed_makes_text_and_picture_stale(folder: Path) -> None:
    report.main(results=folder, pages=[folder / "project.md"])
    assert report.stale(folder, folder / "project.md") == []
    changed = document()
    changed["rows"][1]["ratio_to_reference"] = 1.5
    (folder / "small.json").write_text(json.dumps(changed))
    said = "\n".join(report.stale(folder, folder / "project.md"))
    for name in ("README.md", "project.md", "small.png"):
        assert f"{name} is stale: make bench-report" in said


def learnt(shares: list[float]) -> dict[str, Any]:
    """A result of a trained network, of which an INT8 file keeps these shares of the true Dice."""
    told = document()
    told["case"] |= {"name": "learnt", "weights": "trained"}
    for one in told["rows"]:
        one["agreement"] |= {"true_dice": {"organ": 0.9}, "true_dice_share": [1.0, 1.0], "min_dice": 1.0}
    told["rows"][2]["agreement"] |= {"true_dice_share": shares, "min_dice": 0.9951}
    told["rows"][2] |= {"ratio_to_nncf": 1.5, "ratio_to_nncf_spread": [1.4, 1.6]}
    return told


def test_a_trained_case_has_what_its_int8_file_keeps_beside_its_speed(folder: Path) -> None:
    (folder / "learnt.json").write_text(json.dumps(learnt([0.9992, 1.003])))
    made = report.texts(folder, folder / "project.md")
    line = next(line for line in made[folder / "project.md"].splitlines() if line.startswith("| learnt"))
    assert "9.00" in line
    assert "| 1.50 [1.40, 1.60] | 0.9951 | 0.9992 to 1.0030 |" in line
    assert made[folder / "project.md"].index("| learnt") < made[folder / "project.md"].index("| small")
    assert "True Dice of eager, in slices that were held out (1 subject): organ 0.9000." in made[folder / "README.md"]


def test_the_picture_of_what_is_kept_knows_its_sources(folder: Path) -> None:
    (folder / "learnt.json").write_text(json.dumps(learnt([0.9992, 1.003])))
    report.main(results=folder, pages=[folder / "project.md"])
    assert report.stale(folder, folder / "project.md") == []
    (folder / "learnt.json").write_text(json.dumps(learnt([0.9991, 1.003])))
    assert any(report.KEPT in line for line in report.stale(folder, folder / "project.md"))


def test_the_short_table_has_the_networks_that_true_labels_judge(folder: Path) -> None:
    (folder / "learnt.json").write_text(json.dumps(learnt([0.9992, 1.003])))
    readme = folder / "short.md"
    readme.write_text(f"before\n{report.SHORT[0]}\nold\n{report.SHORT[1]}\nafter\n")
    text = report.texts(folder, readme, folder / "project.md")[readme]
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    rows = [line for line in text.splitlines() if line.startswith("| ")][2:]
    assert rows == ["| learnt, 16x16 | 9.00 [8.10, 9.90] (int8.xml) | 0.9951 | 0.9992 to 1.0030 |"]
