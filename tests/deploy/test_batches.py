"""The batch: taken where whole scans are faster with it beyond noise and every threshold holds; pinned, and told."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medattn_edge.artifact import Artifact, sha256
from medattn_edge.backends import open_session
from medattn_edge.deploy import DeployInputs, DeployRecipe, deploy, plan_deployment
from medattn_edge.deploy.batches import compared_batches, make_batch, outcome_of, too_large, windows_of, with_batch
from medattn_edge.host.cpu_use import CpuUse
from medattn_edge.inference.segment import segment
from medattn_edge.process.memory import available_mb
from medattn_edge.timing import Latency
from tests.deploy.conftest import QUICK
from tests.deploy.test_choice import FP32, gate, row

Inputs = Callable[..., DeployInputs]


def latency(*ms: float) -> Latency:
    return Latency(np.array(ms * 6))


@pytest.mark.parametrize(
    ("run_ms", "windows", "kept", "ratio"),
    [
        (30.0, 100, True, 4 * 10 / 30),  # a run of four windows takes as long as three of one
        (39.9, 100, False, 4 * 10 / 39.9),  # less than is asked for
        (44.0, 100, False, 4 * 10 / 44),
        (30.0, 5, False, 5 * 10 / 60),  # the second run is of one window, and of three that nobody asked for
        (30.0, 3, False, 1.0),
    ],
)
def test_a_batch_is_taken_where_whole_scans_are_faster(run_ms: float, windows: int, kept: bool, ratio: float) -> None:
    runs = -(-windows // 4)
    found = compared_batches(4, latency(run_ms), runs, (latency(10.0), windows))
    assert (found.outcome == "kept") == kept
    assert found.ratio == pytest.approx(ratio)
    assert found.scan_ms == pytest.approx(run_ms * runs)
    assert found.first_scan_ms == pytest.approx(10.0 * windows)
    assert found.text.startswith(f"batch 4: {found.outcome}, {ratio:.2f} times as fast")
    json.dumps(found.to_json(), allow_nan=False)


def test_a_gain_that_may_be_noise_is_none() -> None:
    steady = latency(10.0)
    noisy = Latency(np.array([30.0, 44.0, 36.0, 44.0, 36.0, 45.0]))
    found = compared_batches(4, noisy, 10, (steady, 40))
    assert found.ratio is not None
    assert found.quartiles is not None
    assert found.quartiles[0] < 1 < found.quartiles[1]
    assert found.outcome == "no gain"


def test_a_batch_that_was_timed_on_a_busy_host_says_so() -> None:
    busy = Latency(np.array([30.0, 30.0, 30.0]), CpuUse(2, own=1.0, others=1.0))
    found = compared_batches(4, busy, 10, (Latency(np.array([10.0, 10.0, 10.0])), 40))
    assert found.outcome == "kept"
    assert found.to_json()["ratio_declined"] == "host busy (others used 1.0 of 2 CPUs)"
    assert found.text == "batch 4: kept, by times that are no figures: host busy (others used 1.0 of 2 CPUs)"


def test_a_batch_is_held_to_every_rule_of_a_candidate() -> None:
    assert outcome_of(FP32, [gate(FP32)], [row(FP32, 2.0)], 10.0).verdict == "holds"
    assert outcome_of(FP32, [gate(FP32, failures=("Dice",))], [row(FP32, 2.0)], 10.0).verdict == "fails"
    assert outcome_of(FP32, [gate(FP32)], [row(FP32, 2.0, late=3)], 10.0).verdict == "fails"
    assert outcome_of(FP32, [gate(FP32)], [row(FP32, 2.0, failures=("SQNR",))], None).verdict == "fails"
    assert outcome_of(FP32, [], [row(FP32, 2.0)], None).verdict == "fails"


def test_a_batch_that_the_memory_does_not_hold_is_not_made() -> None:
    rows = [{"artifact": "net.pth", "peak_rss_mb": 300.0}, {"artifact": FP32.name, "peak_rss_mb": 200.0}]
    assert too_large(rows, FP32, 2, 1000.0) == ""
    assert too_large(rows, FP32, 2, 999.0) == "it may take 1000 MB beside the checkpoint, and 999 MB are free"
    assert "may take 2000 MB" in too_large(rows, FP32, 4, 1999.0)
    assert too_large([], FP32, 4, 1.0) == too_large([{**rows[0], "peak_rss_mb": None}], FP32, 4, 1.0) == ""
    assert 10 < available_mb() < 1e9


def test_windows_are_those_that_a_scan_is_segmented_by(inputs_of: Inputs, deployable: Path) -> None:
    plan = plan_deployment(inputs_of(), QUICK)
    with open_session(deployable / "net.safetensors", threads=1) as session:
        found = segment(session, plan.inputs.judged[0].read_for(session.spec))
    assert windows_of(plan) == (found.windows.total,)


def quiet(*_: Any) -> None:
    """Says nothing."""


@pytest.mark.slow
def test_what_is_made_for_a_batch_is_what_the_recipe_that_pins_it_makes(inputs_of: Inputs, tmp_path: Path) -> None:
    plan = plan_deployment(inputs_of(), replace(QUICK, batch=0))
    for name in ("tuned", "pinned"):
        (tmp_path / name).mkdir()
    made = make_batch(with_batch(plan, 2, ()), [plan.made[0]], tmp_path / "tuned", tmp_path / "cache", quiet)
    assert made == {"failure": ""}
    assert Artifact.read(tmp_path / "tuned" / "fp32.onnx").manifest.batch == 2
    pinned = plan_deployment(inputs_of(), replace(QUICK, batch=2))
    make_batch(pinned, [pinned.made[0]], tmp_path / "pinned", tmp_path / "cache", quiet)
    assert sha256(tmp_path / "tuned" / "fp32.onnx") == sha256(tmp_path / "pinned" / "fp32.onnx")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_deployment_tries_batches_and_pins_the_one_that_is_taken(inputs_of: Inputs, tmp_path: Path) -> None:
    lines: list[str] = []
    recipe = replace(QUICK, batch=0, duration_s=0.3, report=True)
    done = deploy(plan_deployment(inputs_of(), recipe), tmp_path / "release", say=lines.append)
    taken = done.recipe.batch
    assert taken in (1, 2, 4)
    assert DeployRecipe.read(tmp_path / "release" / "deploy.toml").batch == taken
    assert Artifact.read(tmp_path / "release" / "fp32.onnx").manifest.batch == taken
    told = json.loads((tmp_path / "release" / "candidates.json").read_text())
    assert told["batch"] == done.to_json()["batch"] == taken
    tried = told["stages"]["batch"]["alternatives"]
    assert [one["batch"] for one in tried] == [2, 4]
    assert [one["batch"] for one in tried if one["outcome"] == "kept"] == ([taken] if taken != 1 else [])
    assert sum(line.startswith(("batch 2: ", "batch 4: ")) for line in lines) == 2
    report = json.loads((tmp_path / "release" / "report.json").read_text())
    assert {one["batch"] for one in report["latency"]["rows"]} == {taken}
    again = plan_deployment(inputs_of(), replace(done.recipe, report=False))
    assert deploy(again, tmp_path / "again").recipe.batch == taken
    assert sha256(tmp_path / "again" / "fp32.onnx") == sha256(tmp_path / "release" / "fp32.onnx")
