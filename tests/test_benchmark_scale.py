"""What two workers are worth is told as a paired ratio, declined where its rounds do not agree."""

from __future__ import annotations

import pytest
import scale


def rounds(*rates: float) -> list[dict[str, float]]:
    return [{"per_s": rate} for rate in rates]


def test_a_row_has_the_median_of_its_paired_ratios() -> None:
    row = scale.row({"1": rounds(10, 20, 10), "2": rounds(18, 38, 20)})
    assert row["ratio"] == pytest.approx(1.9)
    assert (row["one_per_s"], row["two_per_s"], row["ratio_declined"]) == (10, 20, None)


def test_a_ratio_whose_rounds_do_not_agree_is_declined() -> None:
    row = scale.row({"1": rounds(10, 10, 10), "2": rounds(5, 20, 40)})
    assert "quartiles" in row["ratio_declined"]
