"""A figure of a result is written alike in every table."""

from __future__ import annotations

from typing import Any

import cells
import gpu_table
import isa_table
import pytest
import report


def row(**more: Any) -> dict[str, Any]:
    spread = {name: [1.9, 2.1] for name in ("ratio_spread", "ratio_to_eager_cuda_spread")}
    figures = {"p50_ms": 5.0, "p99_ms": 6.0, "cold_start_ms": 1.0, "peak_rss_mb": 2.0, "fraction_of_peak": 0.5}
    ratios = {"ratio_to_reference": 2.0, "ratio_to_eager_cuda": 2.0}
    agreement = {"sqnr_db": 60.0, "max_abs": 0.1, "label_match": 1.0, "min_dice": 1.0}
    about = {"artifact": "a.onnx", "backend": "some", "precision": "fp32", "verdict": "pass", "agreement": agreement}
    return {**about, **figures, **ratios, **spread, **more}


TABLES = {"report": report._cells, "instruction sets": isa_table._cells, "gpu": gpu_table._cells}


@pytest.mark.parametrize("table", TABLES)
def test_a_row_that_fails_has_its_reason_in_one_cell_and_no_ratio(table: str) -> None:
    fails = row(verdict="fail", failures=["Dice of a|b is 0.9,\nbelow 0.99", "another"])
    found = TABLES[table](fails)
    assert found[-1] == "FAIL: Dice of a/b is 0.9, below 0.99; another"
    assert not any("2.00 [" in str(cell) for cell in found)
    assert any("2.00 [1.90, 2.10]" in str(cell) for cell in TABLES[table](row()))


@pytest.mark.parametrize("table", TABLES)
def test_an_answer_without_an_sqnr_is_identical_or_was_not_compared(table: str) -> None:
    assert "60.0" in TABLES[table](row())
    assert "identical" in TABLES[table](row(agreement={"sqnr_db": None, "max_abs": 0}))
    assert "identical" not in TABLES[table](row(agreement=None))


def test_figures_that_are_missing_are_a_dash() -> None:
    assert (cells.number(None, ".1f"), cells.number(0.0, ".1f")) == ("-", "0.0")
    assert cells.ratio(row(ratio_to_reference=None), "ratio_to_reference", "ratio_spread") == "-"
    assert cells.verdict(row(verdict="fail", failures=[])) == "FAIL: out of tolerance"
