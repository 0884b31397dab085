"""The choice: the fastest that holds everything; nothing that was not judged holds, and every loser says why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from medattn_edge.deploy.candidates import CandidatePlan
from medattn_edge.deploy.choice import CandidateOutcome, StageValues, decide
from medattn_edge.evidence.checks import deadline_check

FP32 = CandidatePlan("fp32.onnx", "fp32", "export", runtimes=("onnxruntime",))
IR = CandidatePlan("fp32.xml", "fp32", "openvino", compiler="openvino", runtimes=("openvino", "openvino-without-amx"))
INT8 = CandidatePlan("int8-a.onnx", "int8", "a", "fp32.onnx", "a", runtimes=("onnxruntime",))
FP16 = CandidatePlan("fp16.onnx", "fp16", "export", "fp32.onnx", runtimes=("onnxruntime",))
ENGINE = CandidatePlan(
    "fp16.rtx", "fp16", "tensorrt-rtx", "fp16.onnx", compiler="tensorrt-rtx", runtimes=("tensorrt-rtx",)
)


def gate(plan: CandidatePlan, runtime: str = "", failures: tuple[str, ...] = (), dice: float = 1.0, **more: Any) -> Any:
    case = {"judged_scan": 1, "dice": {"organ": dice}, "sqnr_db": 40.0, "failures": list(failures), **more}
    verdict = "fail" if failures else "pass"
    return {
        "candidate": plan.name, "runtime": runtime or plan.runtimes[0], "verdict": verdict, "failures": [],
        "cases": [case],
    }  # fmt: skip


def row(
    plan: CandidatePlan, ratio: float, runtime: str = "", late: int = 0, failures: tuple[str, ...] = (), runs: int = 200
) -> Any:
    speed = {"p50_ms": 4.0, "p99_ms": 5.0, "ratio_to_reference": ratio, "ratio_spread": [ratio, ratio]}
    speed |= {"miss_rate": late / runs, "rounds": runs}
    speed = dict.fromkeys(speed) if failures else speed
    return {"artifact": plan.name, "backend": runtime or plan.runtimes[0], "failures": list(failures), **speed}


def verdicts(outcomes: tuple[CandidateOutcome, ...]) -> dict[str, str]:
    return {one.plan.name: one.verdict for one in outcomes}


def test_the_fastest_that_holds_is_chosen_and_the_slower_says_by_how_much():
    values = StageValues(gates=[gate(FP32), gate(INT8, dice=0.9995)], timed=[row(FP32, 2.0), row(INT8, 3.0)])
    outcomes = decide([FP32, INT8], values)
    assert verdicts(outcomes) == {"fp32.onnx": "holds", "int8-a.onnx": "chosen"}
    assert outcomes[0].reasons == ("slower: int8-a.onnx is 1.50 times as fast",)
    assert (outcomes[1].min_dice, outcomes[1].min_sqnr_db, outcomes[1].ratio_to_reference) == (0.9995, 40.0, 3.0)


def test_a_faster_one_that_fails_on_a_whole_scan_loses():
    values = StageValues(
        gates=[gate(FP32), gate(INT8, failures=("Dice is 0.9",), dice=0.9)], timed=[row(FP32, 2.0), row(INT8, 9.0)]
    )
    outcomes = decide([FP32, INT8], values)
    assert verdicts(outcomes) == {"fp32.onnx": "chosen", "int8-a.onnx": "fails"}
    assert outcomes[1].reasons == ("in onnxruntime: judged scan 1: Dice is 0.9",)
    assert outcomes[1].min_dice == 0.9


def test_a_faster_one_that_fails_on_patches_loses():
    values = StageValues(
        gates=[gate(FP32), gate(INT8)], timed=[row(FP32, 2.0), row(INT8, 9.0, failures=("SQNR is 20",))]
    )
    assert verdicts(decide([FP32, INT8], values)) == {"fp32.onnx": "chosen", "int8-a.onnx": "fails"}


@pytest.mark.parametrize("runtime", ["openvino", "openvino-without-amx"])
def test_a_file_holds_in_every_way_that_its_runtime_may_compute_it(runtime):
    gates = [gate(FP32), *(gate(IR, name, failures=("another",) if name == runtime else ()) for name in IR.runtimes)]
    outcomes = decide([FP32, IR], StageValues(gates=gates, timed=[row(FP32, 2.0), row(IR, 9.0)]))
    assert verdicts(outcomes) == {"fp32.onnx": "chosen", "fp32.xml": "fails"}


def test_a_failure_in_a_runtime_that_would_not_run_it_is_no_failure():
    gates = [gate(INT8), gate(INT8, "openvino", failures=("another graph",))]
    assert verdicts(decide([INT8], StageValues(gates=gates, timed=[row(INT8, 2.0)]))) == {"int8-a.onnx": "chosen"}


def test_what_nobody_judged_does_not_hold():
    outcomes = decide([FP32, INT8], StageValues(gates=[gate(FP32)], timed=[row(FP32, 1.0), row(INT8, 9.0)]))
    assert verdicts(outcomes) == {"fp32.onnx": "chosen", "int8-a.onnx": "fails"}
    silent = {**gate(INT8), "verdict": "fail"}
    outcomes = decide([INT8], StageValues(gates=[silent], timed=[row(INT8, 9.0)]))
    assert outcomes[0].reasons == ("in onnxruntime: it was not judged",)


def test_what_was_not_timed_is_not_chosen_where_others_were():
    values = StageValues(gates=[gate(FP32), gate(INT8)], timed=[row(FP32, 0.5)])
    outcomes = decide([INT8, FP32], values)
    assert verdicts(outcomes) == {"int8-a.onnx": "holds", "fp32.onnx": "chosen"}
    assert outcomes[0].reasons == ("not timed here",)


def test_a_run_past_the_deadline_loses_whatever_its_ratio():
    values = StageValues(
        gates=[gate(FP32), gate(INT8)],
        timed=[row(FP32, 2.0, late=2), row(INT8, 9.0, late=3)],
        deadline_ms=10.0,
    )
    outcomes = decide([FP32, INT8], values)
    assert verdicts(outcomes) == {"fp32.onnx": "chosen", "int8-a.onnx": "fails"}
    late = "1.5 % of 200 runs too late (p99 5.0 ms): at most 1 % may be, and the deadline is 10 ms"
    assert outcomes[1].reasons == (late,)


@pytest.mark.parametrize(("late", "runs"), [(0, 12), (1, 12), (1, 99), (1, 100), (2, 150), (2, 200)])
def test_a_deadline_is_met_here_where_the_report_says_so_however_few_the_runs(late, runs):
    timing = row(FP32, 2.0, late=late, runs=runs)
    (outcome,) = decide([FP32], StageValues(gates=[gate(FP32)], timed=[timing], deadline_ms=10.0))
    check = deadline_check([FP32.name], [timing], 10.0)
    assert (outcome.verdict == "chosen") == (check.verdict == "pass") == (100 * late <= runs)


def test_a_deadline_that_nothing_keeps_chooses_nothing():
    values = StageValues(gates=[gate(FP32)], timed=[row(FP32, 2.0, late=200)], deadline_ms=1.0)
    assert verdicts(decide([FP32], values)) == {"fp32.onnx": "fails"}


def test_what_could_not_be_made_and_what_is_left_out_say_why():
    out = replace(FP16, left_out="CPUs compute FP32")
    values = StageValues(made={"int8-a.onnx": {"failure": "the gate"}}, gates=[gate(FP32)], timed=[row(FP32, 1.0)])
    outcomes = decide([FP32, out, INT8], values)
    assert verdicts(outcomes) == {"fp32.onnx": "chosen", "fp16.onnx": "left out", "int8-a.onnx": "not built"}
    assert [one.reasons for one in outcomes[1:]] == [("CPUs compute FP32",), ("the gate",)]


def test_what_was_only_made_for_others_is_not_chosen():
    parent = replace(FP32, eligible=False)
    values = StageValues(gates=[gate(parent), gate(INT8)], timed=[row(INT8, 0.5)])
    assert verdicts(decide([parent, INT8], values)) == {"fp32.onnx": "holds", "int8-a.onnx": "chosen"}


NO_GPU = {"fp16.rtx": {"failure": "", "verified": "not run on this host: no NVIDIA GPU"}}


def test_without_the_gpu_fp16_is_chosen_by_rule_and_says_so():
    values = StageValues(made=NO_GPU, gates=[gate(FP32), gate(FP16), gate(INT8)], not_timed="no GPU")
    outcomes = decide([FP32, FP16, INT8, ENGINE], values)
    assert verdicts(outcomes) == {
        "fp32.onnx": "holds", "fp16.onnx": "holds", "int8-a.onnx": "holds", "fp16.rtx": "chosen",
    }  # fmt: skip
    assert outcomes[3].reasons == ("by rule, not by measurement: no GPU",)
    assert outcomes[3].not_run.startswith("not run on this host")


def test_an_engine_that_nobody_ran_is_not_chosen_when_its_graph_fails():
    values = StageValues(made=NO_GPU, gates=[gate(FP32), gate(FP16, failures=("lost",))], not_timed="no GPU")
    outcomes = decide([FP32, FP16, ENGINE], values)
    assert verdicts(outcomes) == {"fp32.onnx": "chosen", "fp16.onnx": "fails", "fp16.rtx": "fails"}
    assert outcomes[2].reasons == ("fp16.onnx fails",)


def test_int8_is_never_chosen_by_rule_where_something_else_holds():
    values = StageValues(gates=[gate(FP32), gate(INT8)], not_timed="no GPU")
    assert verdicts(decide([INT8, FP32], values)) == {"int8-a.onnx": "holds", "fp32.onnx": "chosen"}


def test_shares_of_true_dice_are_the_smallest_and_the_largest_of_all_scans():
    gates = [gate(INT8, true_dice_share={"organ": 0.999}, reference_dice={"organ": 0.9})]
    gates[0]["cases"].append({**gates[0]["cases"][0], "true_dice_share": {"organ": 1.002}, "dice": {"organ": 0.995}})
    (outcome,) = decide([INT8], StageValues(gates=gates, timed=[row(INT8, 1.0)]))
    assert outcome.true_dice_share == (0.999, 1.002)
    assert outcome.min_dice == 0.995
    assert outcome.to_json()["true_dice_share"] == [0.999, 1.002]


def test_on_a_busy_host_the_shortest_median_is_chosen_and_it_is_said():
    busy = {"ratio_to_reference": None, "ratio_spread": None, "ratio_declined": "host busy (quartiles 1 to 9)"}
    timed = [row(FP32, 2.0), row(INT8, 3.0) | busy | {"p50_ms": 3.0}]
    slow, fast = decide([FP32, INT8], StageValues(gates=[gate(FP32), gate(INT8)], timed=timed))
    assert (slow.verdict, fast.verdict) == ("holds", "chosen")
    assert fast.reasons == (
        "the shortest median time of what holds, 3.0 ms; ratios were declined: host busy (quartiles 1 to 9)",
    )
    assert slow.reasons == ("4.0 ms, int8-a.onnx 3.0 ms, on a busy host",)
    assert (fast.ratio_to_reference, fast.ratio_declined) == (None, "host busy (quartiles 1 to 9)")
    assert (fast.to_json()["ratio_to_reference"], slow.to_json()["ratio_declined"]) == (None, "")
