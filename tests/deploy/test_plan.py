"""The plan: which candidates a target has, held to what, in which stages; with no name of a scan in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medattn_edge import gates
from medattn_edge.deploy import DeployInputs, DeployRecipe, plan_deployment
from medattn_edge.deploy.inputs import digest_of
from medattn_edge.errors import InputError, IntegrityError, UsageError
from medattn_edge.host import hardware
from medattn_edge.io import as_scan
from tests.deploy.conftest import QUICK

Inputs = Callable[..., DeployInputs]
BF16 = "int8-nncf-openvino-bf16.xml"
EVERY_QUANTIZER = {"nncf-onnx", "nncf-openvino", "onnxruntime"}


def test_a_cpu_has_every_quantizer_and_openvino_beside_the_graphs(inputs_of: Inputs) -> None:
    pytest.importorskip("nncf")
    plan = plan_deployment(inputs_of(), DeployRecipe())
    made = {one.name: one for one in plan.made}
    assert {one.quantizer for one in plan.made} - {""} == EVERY_QUANTIZER
    assert made["int8-nncf-onnx.xml"].parent == "int8-nncf-onnx.onnx"
    assert made["int8-nncf-openvino.xml"].parent == "fp32.onnx"
    left_out = {one.name: one.left_out for one in plan.candidates if one.left_out and one.name != BF16}
    assert left_out == {"fp16.onnx": "CPUs compute an FP16 graph in FP32 between casts"}
    titles = [stage.name for stage in plan.stages]
    assert titles[:3] == ["fp32.onnx", "gate-fp32.onnx", "foreground"]
    assert titles[-7:] == ["measure", "batch-2", "batch-4", "batch", "tiling", "threads", "release"]
    places = {name: titles.index(name) for name in titles}
    assert all(places[name] < places[stage.name] for stage in plan.stages for name in stage.needs)


@pytest.mark.parametrize(("flag", "why"), [
    ("avx512_bf16", ""), ("amx_bf16", ""), ("avx512_vnni", "this CPU does not compute BF16"),
])  # fmt: skip
def test_bf16_around_int8_is_tried_where_the_cpu_has_it_and_held_to_the_graph_it_is_made_from(
    inputs_of: Inputs, monkeypatch: pytest.MonkeyPatch, flag: str, why: str
) -> None:
    pytest.importorskip("nncf")
    cpu = replace(hardware.cpu(), instruction_sets=("avx2", "avx512f", "avx512_vnni", flag))
    monkeypatch.setattr(hardware, "cpu", lambda: cpu)
    plan = plan_deployment(inputs_of(), DeployRecipe())
    one = next(each for each in plan.candidates if each.name == BF16)
    assert (one.left_out, one.inference_precision, one.parent) == (why, "bf16", "int8-nncf-openvino.xml")
    gated = [each.name for stage in plan.stages if stage.kind == "gate" for each in stage.candidates]
    assert (BF16 in gated) is (not why)
    assert {each.inference_precision for each in plan.candidates if each.name != BF16} == {"f32"}


def test_the_thresholds_are_those_of_the_table_of_gates_until_the_recipe_says_others(inputs_of: Inputs) -> None:
    found = plan_deployment(inputs_of(), QUICK).thresholds
    assert found["int8, whole scans"] == {"min_dice": gates.INT8.limits["min_dice"]}
    assert found["fp16, whole scans"] == {"min_dice": gates.FP16.limits["min_dice"]}
    assert found["fp32, patches"]["min_sqnr_db"] == gates.FP32.limits["min_sqnr_db"]
    asked = plan_deployment(inputs_of(), replace(QUICK, min_dice=0.5, deadline_ms=7.0)).thresholds
    assert {limits["min_dice"] for name, limits in asked.items() if "whole" in name} == {0.5}
    assert asked["latency of a run"]["deadline_ms"] == 7.0


def test_with_true_labels_both_thresholds_are_held(inputs_of: Inputs, deployable: Path) -> None:
    plan = plan_deployment(inputs_of(labels=[deployable / "Doe-Jane-0.nii.gz"]), QUICK)
    assert plan.thresholds["int8, whole scans"] == gates.TRUE_LABELS.limits
    assert not any("says nothing of whether FP32 is right" in text for text in plan.assumptions)


def test_a_plan_names_no_scan(inputs_of: Inputs, deployable: Path) -> None:
    plan = plan_deployment(inputs_of((0, 1, 2), labels=[deployable / "Doe-Jane-2.nii.gz"]), QUICK)
    text = json.dumps(plan.to_json())
    assert "Doe" not in text
    assert str(deployable) not in text
    assert set(plan.hashes) == {"checkpoint", "scan 1", "scan 2", "held-out scan 1", "labels 1"}
    assert plan.hashes["held-out scan 1"] == plan.hashes["labels 1"]


def test_one_scan_is_divided_and_that_is_said(inputs_of: Inputs) -> None:
    plan = plan_deployment(inputs_of((0,)), QUICK)
    assert any("only one scan" in text for text in plan.assumptions)
    assert "foreground" not in [stage.name for stage in plan.stages]


@pytest.mark.parametrize(("names", "stages"), [
    (("fp32.onnx",), {"fp32.onnx", "gate-fp32.onnx", "foreground", "measure", "release"}),
    (("int8-onnxruntime.xml",), {
        "fp32.onnx", "gate-fp32.onnx", "foreground", "int8-onnxruntime.onnx", "int8-onnxruntime.xml",
        "gate-int8-onnxruntime.onnx", "measure", "release",
    }),
])  # fmt: skip
def test_only_what_is_asked_for_is_made_and_what_it_is_made_from(inputs_of: Inputs, names, stages) -> None:
    plan = plan_deployment(inputs_of(), replace(QUICK, candidates=names))
    assert {stage.name for stage in plan.stages} == stages
    assert [one.name for one in plan.made if one.eligible] == list(names)


def test_a_batch_is_tuned_for_a_checkpoint_on_a_cpu_and_only_where_none_is_asked_for(inputs_of: Inputs) -> None:
    def stages(**asked: Any) -> tuple[list[str], bool]:
        plan = plan_deployment(inputs_of(), replace(QUICK, candidates=(), **asked))
        said = any("1 patch per run" in text for text in plan.assumptions)
        return [one.name for one in plan.stages if one.name.startswith("batch")], said

    assert stages(batch=0) == (["batch-2", "batch-4", "batch"], False)
    assert stages(batch=3) == ([], False)
    assert stages(batch=0, target="jetson") == ([], True)
    assert stages(batch=2, target="jetson") == ([], False)


def test_windows_are_tuned_on_a_cpu_and_those_of_the_recipe_are_judged(inputs_of: Inputs) -> None:
    def titles(**asked: Any) -> list[str]:
        plan = plan_deployment(inputs_of(), replace(QUICK, **asked))
        found = [one.title for one in plan.stages if one.name == "tiling"]
        assert any("windows are judged" in text for text in plan.assumptions) == bool(found)
        return found

    assert titles(overlap=None) == ["hold windows that overlap by 0.375, 0.25, 0.125, 0, not 0.5, to the checkpoint"]
    assert titles(overlap=0.25) == ["hold windows that overlap by 0.25, not 0.5, to the checkpoint"]
    assert titles(overlap=0.5) == titles(overlap=None, target="jetson") == []
    with pytest.raises(UsageError, match=r"an overlap of 0.25 for jetson(.|\n)*leave --overlap out"):
        titles(overlap=0.25, target="jetson")


@pytest.mark.parametrize(
    ("name", "found"),
    [("net.onnx", "no candidate 'net.onnx'"), ("fp16.onnx", "the candidate fp16.onnx: CPUs compute")],
)
def test_a_candidate_that_is_not_made_is_refused(inputs_of: Inputs, name, found) -> None:
    with pytest.raises(UsageError) as raised:
        plan_deployment(inputs_of(), replace(QUICK, candidates=(name,)))
    assert raised.value.found.endswith(found) or found in raised.value.found


@pytest.mark.parametrize("target", ["tensorrt", "jetson"])
def test_without_its_gpu_a_target_gets_graphs_and_is_told_where_engines_are_built(inputs_of: Inputs, target) -> None:
    if hardware.gpus():
        pytest.skip("this host has a GPU")
    plan = plan_deployment(inputs_of(), DeployRecipe(target=target))
    assert {one.name for one in plan.made} == {"fp32.onnx", "fp16.onnx", "int8-onnxruntime.onnx"}
    engines = [one for one in plan.candidates if one.is_engine]
    assert {one.name for one in engines} == {"fp32.engine", "fp16.engine", "int8-onnxruntime.engine"}
    assert all("medattn-edge compile" in one.left_out for one in engines)
    assert any("no engine is run or timed" in text for text in plan.assumptions)
    assert "threads" not in [stage.name for stage in plan.stages]


def test_a_deadline_that_nothing_would_be_timed_for_is_refused(inputs_of: Inputs) -> None:
    if hardware.gpus():
        pytest.skip("this host has a GPU")
    for target in ("tensorrt", "jetson"):
        with pytest.raises(UsageError, match="nothing is timed here"):
            plan_deployment(inputs_of(), DeployRecipe(target=target, deadline_ms=50.0))


def test_rtx_engines_are_built_ahead_of_time_for_the_capabilities_that_are_named(inputs_of: Inputs) -> None:
    pytest.importorskip("tensorrt_rtx")
    if hardware.gpus():
        pytest.skip("this host has a GPU")
    with pytest.raises(UsageError, match="expected the compute capabilities"):
        plan_deployment(inputs_of(), DeployRecipe(target="tensorrt-rtx"))
    plan = plan_deployment(inputs_of(), DeployRecipe(target="tensorrt-rtx", compute_capabilities=("sm86",)))
    assert {"fp32.rtx", "fp16.rtx", "int8-onnxruntime.rtx"} <= {one.name for one in plan.made}


def test_a_recipe_of_other_files_says_that_the_release_will_be_another(inputs_of: Inputs) -> None:
    stored = replace(QUICK, inputs=plan_deployment(inputs_of(), QUICK).hashes)
    assert not any("stored with another" in text for text in plan_deployment(inputs_of(), stored).assumptions)
    said = plan_deployment(inputs_of((0, 2)), stored).assumptions
    assert any("stored with another held-out scan 1" in text for text in said)


def test_inputs_that_cannot_be_used_are_refused(inputs_of: Inputs, deployable: Path, tmp_path: Path) -> None:
    held, again = as_scan(deployable / "Doe-Jane-1.nii.gz"), deployable / "Doe-Jane-0.nii.gz"
    with pytest.raises(UsageError, match="no scan"):
        inputs_of(())
    with pytest.raises(UsageError, match="a scan comes twice"):
        inputs_of((0, 1), held_out=[held])
    with pytest.raises(UsageError, match="2 label files for 1 scans"):
        inputs_of((0, 1), labels=[again, again])
    with pytest.raises(InputError, match="does not exist"):
        inputs_of((0, 1), labels=[tmp_path / "no.nii.gz"])
    with pytest.raises(InputError, match="does not exist"):
        inputs_of((0,), held_out=[as_scan(tmp_path / "no.nii.gz")])


def test_a_hash_is_of_what_is_in_files_and_not_of_their_names(tmp_path: Path) -> None:
    for name, inner in (("one", ("b", "a/c")), ("two", ("z", "x"))):
        for file, data in zip(inner, (b"first", b"second"), strict=True):
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    assert digest_of([tmp_path / "one"]) == digest_of([tmp_path / "two"])
    (tmp_path / "two" / "x").write_bytes(b"seconD")
    assert digest_of([tmp_path / "one"]) != digest_of([tmp_path / "two"])
    with pytest.raises(InputError, match="cannot be read"):
        digest_of([tmp_path / "three"])


def test_a_file_that_changed_meanwhile_is_named(inputs_of: Inputs, deployable: Path, tmp_path: Path) -> None:
    scan = tmp_path / "scan.nii.gz"
    scan.write_bytes((deployable / "Doe-Jane-1.nii.gz").read_bytes())
    inputs = inputs_of((0,), held_out=[as_scan(scan)])
    hashes = inputs.hashes()
    inputs.check_unchanged(hashes)
    scan.write_bytes((deployable / "Doe-Jane-2.nii.gz").read_bytes())
    with pytest.raises(IntegrityError, match="held-out scan 1 changed"):
        inputs.check_unchanged(hashes)


@pytest.mark.parametrize(("reason", "said"), [
    ("the process died, on Doe-Jane-1.nii.gz", "the process died, on judged scan 1"),
    ("on Doe-Jane-1.nii.gz input SQNR in dB is 20, below 30", "on judged scan 1: SQNR in dB is 20, below 30"),
    ("on random input it is not finite", "on random input it is not finite"),
])  # fmt: skip
def test_a_reason_has_a_number_in_the_place_of_a_scans_name(inputs_of: Inputs, reason, said) -> None:
    assert inputs_of().without_names(reason) == said
