"""The gate across runtimes, on figures alone."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from medattn_edge.agreement import Agreement
from medattn_edge.evaluation.disagreement import Ruling, RuntimeOutcome, judge


def outcome(runtime: str, *figures: float, failure: str = "", written: bool = False) -> RuntimeOutcome:
    """A runtime with an SQNR in dB on each scan; not a number: its logits are not finite there."""
    agreements = tuple(
        Agreement(0.1, -math.inf if math.isnan(one) else one, 1.0, {}, {}, 0, 0, not math.isnan(one)) for one in figures
    )
    return RuntimeOutcome(runtime, agreements, failure, written)


def written(*figures: float, failure: str = "") -> RuntimeOutcome:
    return outcome("as-written", *figures, failure=failure, written=True)


def reasons(ruling: Ruling) -> dict[str, str]:
    return {row.runtime: row.reason for row in ruling.rows if row.refused}


def test_runtimes_that_agree_pass() -> None:
    ruling = judge([written(35.0), outcome("a", 34.6), outcome("b", 35.3)])
    assert ruling.refused == ()
    assert (ruling.note, ruling.hint) == ("", "")


def test_the_one_that_is_behind_is_named_with_both_figures() -> None:
    ruling = judge([written(35.2), outcome("onnxruntime", 35.0), outcome("openvino", 22.1)])
    assert ruling.refused == ("openvino",)
    assert reasons(ruling)["openvino"] == "SQNR 22.1 dB where the graph as written has SQNR 35.2 dB"
    assert ruling.hint.startswith("deploy it in onnxruntime, or make another file")


@pytest.mark.parametrize(("figure", "refused"), [(29.0, ()), (28.9, ("a",))])
def test_the_gap_is_the_limit(figure: float, refused: tuple[str, ...]) -> None:
    assert judge([written(35.0), outcome("a", figure)]).refused == refused


def test_another_gap_can_be_asked_for() -> None:
    outcomes = [written(35.0), outcome("a", 33.0)]
    assert judge(outcomes, 1.0).refused == ("a",)
    assert judge(outcomes, 3.0).refused == ()


def test_the_noise_of_fp32_does_not_count() -> None:
    assert judge([written(133.0), outcome("a", 101.0), outcome("b", 300.0)]).refused == ()
    assert judge([written(133.0), outcome("a", 120.0), outcome("b", 38.6)]).refused == ("b",)


def test_one_bad_scan_is_enough() -> None:
    ruling = judge([written(35.0, 20.0, 36.0), outcome("a", 34.0, 12.0, 35.5), outcome("b", 35.0, 20.0, 36.0)])
    assert ruling.refused == ("a",)
    assert "12.0 dB on scan 2" in reasons(ruling)["a"]
    assert ruling.rows[0].sqnr_db == 20.0


def test_a_crash_is_a_verdict_whatever_was_right_before_it() -> None:
    ruling = judge([written(35.0, 35.0), outcome("a", 35.0, failure="the runtime crashed: SIGSEGV, on b.nii.gz")])
    assert reasons(ruling) == {"a": "the runtime crashed: SIGSEGV, on b.nii.gz"}
    assert judge([written(35.0), outcome("a", failure="crashed")]).rows[1].sqnr_db is None


def test_logits_that_are_not_finite_are_refused() -> None:
    ruling = judge([written(35.0, 35.0), outcome("a", 35.0, math.nan)])
    assert reasons(ruling) == {"a": "its logits are not finite"}
    assert ruling.rows[1].sqnr_db is None


@pytest.mark.parametrize("lost", [written(failure="crashed"), written(math.nan)])
def test_without_the_graph_as_written_the_best_runtime_takes_its_place(lost: RuntimeOutcome) -> None:
    ruling = judge([lost, outcome("a", 34.0), outcome("b", 20.0), outcome("c", 35.0)])
    assert ruling.refused == ("as-written", "b")
    assert "where c has SQNR 35.0 dB" in reasons(ruling)["b"]
    ruling = judge([outcome("a", 34.0), outcome("b", 20.0)])
    assert ruling.refused == ("b",)


def test_one_that_is_better_than_the_graph_as_written_is_remarked_and_not_refused() -> None:
    ruling = judge([written(25.0), outcome("a", 25.0), outcome("b", 120.0)])
    assert ruling.refused == ()
    assert "better than the graph as written" in ruling.rows[2].reason


def test_the_graph_as_written_is_refused_where_it_stands_alone() -> None:
    ruling = judge([written(20.0), outcome("a", 35.0), outcome("b", 34.0)])
    assert ruling.refused == ("as-written",)
    assert "SQNR 20.0 dB where all others have more" in reasons(ruling)["as-written"]
    assert [row.reason for row in ruling.rows[1:]] == ["", ""]
    both = judge([written(20.0), outcome("a", 35.0), outcome("b", 28.0)])
    assert both.refused == ("as-written", "b")
    # One against one: nobody can say who is right, and a better answer harms nobody.
    assert judge([written(20.0), outcome("a", 35.0)]).refused == ()


def test_one_runtime_has_nothing_to_be_compared_with() -> None:
    ruling = judge([outcome("openvino", 22.0)])
    assert ruling.refused == ()
    assert "only openvino ran it: there is nothing to compare it with" in ruling.note
    assert judge([outcome("openvino", failure="crashed")]).refused == ("openvino",)


def test_where_all_are_far_from_the_reference_it_says_that_it_cannot_tell() -> None:
    ruling = judge([written(4.0), outcome("a", 3.0)])
    assert ruling.refused == ()
    assert "too far from the reference" in ruling.note


def test_when_all_failed_all_are_refused() -> None:
    ruling = judge([written(failure="crashed"), outcome("a", math.nan)])
    assert ruling.refused == ("as-written", "a")
    assert ruling.hint.startswith("make another file")


def test_the_json_has_the_promised_fields_and_no_number_that_json_lacks() -> None:
    ruling = judge([written(35.0), outcome("a", math.nan), outcome("b", failure="crashed")])
    told: dict[str, Any] = json.loads(json.dumps(ruling.to_json(), allow_nan=False))
    assert told["as_written_sqnr_db"] == 35.0
    assert told["refused"] == ["a", "b"]
    assert told["rows"][0] == {"backend": "as-written", "sqnr_db": 35.0, "verdict": "pass", "reason": ""}
    assert [(row["sqnr_db"], row["verdict"]) for row in told["rows"][1:]] == [(None, "fail")] * 2
    assert judge([outcome("a", 3.0)]).to_json()["as_written_sqnr_db"] is None
