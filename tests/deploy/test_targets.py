"""Targets with a GPU, on a host without: graphs are judged, engines built, and nothing is claimed of their speed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from medattn_edge.artifact import Artifact
from medattn_edge.deploy import DeployInputs, DeployRecipe, deploy, plan_deployment
from medattn_edge.host import hardware
from tests.deploy.conftest import QUICK

pytestmark = pytest.mark.skipif(bool(hardware.gpus()), reason="this host has a GPU")
Inputs = Callable[..., DeployInputs]
GPU = replace(QUICK, run_threads=0, candidates=())


def test_an_fp16_graph_for_a_jetson_is_judged_as_it_is_written(inputs_of: Inputs, tmp_path: Path) -> None:
    recipe = replace(GPU, target="jetson", candidates=("fp16.onnx", "fp32.onnx"), min_dice=0.99)
    deployment = deploy(plan_deployment(inputs_of(), recipe), tmp_path / "release")
    assert deployment.chosen is not None
    assert deployment.chosen.plan.name == "fp16.onnx"
    assert deployment.chosen.reasons == ("by rule, not by measurement: no engine was run on this host",)
    document = json.loads((tmp_path / "release" / "candidates.json").read_text())
    rows = {row["candidate"]: row for row in document["candidates"]}
    assert rows["fp16.onnx"]["min_dice"] >= 0.99
    assert rows["fp16.onnx"]["p50_ms"] is None
    assert "built on the box" in rows["fp16.engine"]["left_out"]
    judged = document["stages"]["gate-fp16.onnx"]["rows"]
    assert "onnxruntime-unoptimised" in {row["runtime"] for row in judged}
    assert Artifact.read(tmp_path / "release" / "fp16.onnx").manifest.precision == "fp16"


@pytest.mark.slow
def test_an_rtx_engine_is_built_ahead_of_time_and_says_that_nobody_ran_it(inputs_of: Inputs, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    recipe = replace(
        GPU, target="tensorrt-rtx", compute_capabilities=("sm86",), candidates=("fp16.rtx",), min_dice=0.99
    )
    deployment = deploy(plan_deployment(inputs_of(), recipe), tmp_path / "release")
    assert deployment.chosen is not None
    assert deployment.chosen.not_run.startswith("not run on this host")
    assert deployment.chosen.min_dice is None
    assert set(deployment.release.manifest.artifacts) == {"fp16.rtx", "fp16.onnx", "fp32.onnx"}  # type: ignore[union-attr]
    stored = DeployRecipe.read(tmp_path / "release" / "deploy.toml")
    assert stored.candidates == ("fp16.rtx",)
    target = Artifact.read(tmp_path / "release" / "fp16.rtx").manifest.target
    assert target["verified"].startswith("not run on this host")
