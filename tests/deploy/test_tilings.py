"""The windows: the fewest that hold every threshold against the checkpoint with its own; pinned, and told."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from medattn_edge.artifact import Artifact, manifest_path, sha256
from medattn_edge.backends import open_session
from medattn_edge.deploy import DeployInputs, DeployPlan, DeployRecipe, DeploySource, deploy, plan_deployment
from medattn_edge.deploy.tilings import (
    TilingOutcome,
    TilingSource,
    choose_tiling,
    planned_tilings,
    smallest_overlap,
    write_tiled,
)
from medattn_edge.errors import UsageError
from medattn_edge.inference.segment import segment
from medattn_edge.inference.tiling import starts
from medattn_edge.io import as_scan
from medattn_edge.models.checkpoint import load
from medattn_edge.release import verify
from medattn_edge.volume import Volume
from tests.deploy.conftest import AFFINE, QUICK
from tests.support.networks import gated_spec, save_checkpoint
from tests.support.scans import write_nifti


@pytest.mark.parametrize(
    ("shape", "patch", "asked", "found"),
    [
        ((1, 10, 20), (10, 10), 0.0, 0.0),  # two that touch
        ((1, 10, 15), (10, 10), 0.0, 0.5),  # two again, which share half
        ((1, 16, 26), (10, 10), 0.0, 0.2),  # starts 0, 8, 16 of the one axis, 0 and 6 of the other
        ((9, 10, 10), (10, 10), 0.25, 0.25),  # no neighbours in a slice, and slices are no windows of a 2-D network
        ((167, 96, 96), (96, 96, 96), 0.25, 0.2604),  # a step of 71: 0.260416..., rounded so that it stays one
    ],
)
def test_an_overlap_is_what_windows_share_and_not_what_was_asked_for(shape, patch, asked, found) -> None:
    assert smallest_overlap([shape], patch, asked) == found


def test_the_overlap_that_is_written_gives_the_same_windows_whatever_the_sizes() -> None:
    for patch in (7, 10, 64, 96, 160, 224):
        for asked in (0.0, 0.125, 0.25, 0.375):
            for size in range(patch + 1, 4 * patch, 7):
                sizes = [(size, patch + 3, patch), (patch, 2 * size, patch)]
                real = smallest_overlap(sizes, (patch,) * 3, asked)
                assert real >= asked
                for length in {length for shape in sizes for length in shape}:
                    assert starts(length, patch, real) == starts(length, patch, asked), (patch, asked, size)


def test_each_tiling_is_tried_once_the_fewest_runs_first() -> None:
    own, others = planned_tilings([(3, 32, 64), (5, 32, 96)], (32, 32), 1, (0.5, 0.375, 0.25, 0.125, 0.0))
    assert (own.overlap, own.windows, own.runs) == (0.5, 3 * 3 + 5 * 5, 34)
    assert [(one.overlap, one.windows) for one in others] == [(0.0, 21), (0.3125, 29)]
    assert [one.ratio for one in others] == [34 / 21, 34 / 29]
    _, batched = planned_tilings([(3, 32, 64), (5, 32, 96)], (32, 32), 4, (0.5, 0.0))
    assert [(one.windows, one.runs) for one in batched] == [(21, 2 + 4)]
    assert planned_tilings([(3, 32, 32)], (32, 32), 1, (0.5, 0.25, 0.0))[1] == ()


def test_a_tiling_comes_back_from_json_and_tells_its_figures() -> None:
    one = TilingOutcome(0.25, 40, 20, 1.6, "refused", "Dice", 0.98, (0.99, 1.0), 31.5)
    assert TilingOutcome.from_json(json.loads(json.dumps(one.to_json(), allow_nan=False))) == one
    assert one.text == (
        "windows that overlap by 0.25: refused, 40 windows, 1.60 times fewer runs, Dice with the reference 0.980000, "
        "true Dice share 0.9900 to 1.0000: Dice"
    )
    bare = TilingOutcome(0.25, 40, 20, 1.6)
    assert TilingOutcome.from_json(bare.to_json()) == bare
    assert set(bare.values) == {"windows", "runs", "ratio"}


def test_a_file_with_other_windows_is_the_same_file_under_another_manifest(
    small_artifact: Path, tmp_path: Path
) -> None:
    tuned = write_tiled(small_artifact, tmp_path / "tuned.onnx", 0.25)
    usual = Artifact.read(small_artifact).manifest
    assert tuned.path.read_bytes() == small_artifact.read_bytes()
    assert (tuned.spec.overlap, tuned.manifest.reference_spec) == (0.25, usual.spec)
    again = write_tiled(tuned.path, tmp_path / "again.onnx", 0.0).manifest
    assert (again.spec.overlap, again.reference_spec) == (0.0, usual.spec)
    back = write_tiled(tuned.path, tmp_path / "back.onnx", 0.5)
    assert back.manifest == usual
    assert manifest_path(back.path).read_text() == json.dumps(usual.to_json(), indent=2) + "\n"


def test_windows_that_no_judged_scan_can_show_are_refused(
    inputs_of: Callable[..., DeployInputs], small_artifact: Path, tmp_path: Path
) -> None:
    plan = plan_deployment(inputs_of(), replace(QUICK, overlap=0.25))
    source = TilingSource(small_artifact, 1, ())
    with pytest.raises(UsageError, match=r"gives every judged scan the windows that it has with 0.5(.|\n)*LARGER"):
        choose_tiling(plan, plan.made[0], source, tmp_path, lambda *_: None, lambda _: None)
    tuned = plan_deployment(inputs_of(), replace(QUICK, overlap=None))
    found = choose_tiling(tuned, plan.made[0], source, tmp_path, lambda *_: None, lambda _: None)
    assert (found["overlap"], found["holds"], found["alternatives"], found["gate"]) == (0.5, True, [], [])
    assert list(tmp_path.iterdir()) == []


# Whole deployments

WIDE = (2, 30, 100)  # seven windows of 32 in a row, or four


@pytest.fixture(scope="module")
def plan_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., DeployPlan]:
    """The plan of a recipe for a small network and scans that are three patches wide."""
    folder = tmp_path_factory.mktemp("wide")
    checkpoint = save_checkpoint(folder / "net.safetensors", gated_spec(), balanced=True)
    for number in range(2):
        voxels = np.random.default_rng(number).random(WIDE).astype(np.float32)
        write_nifti(folder / f"{number}.nii.gz", Volume(voxels, AFFINE))

    def planned(**asked: Any) -> DeployPlan:
        scans = [as_scan(folder / f"{number}.nii.gz") for number in range(2)]
        inputs = DeployInputs.of(DeploySource(checkpoint, load(checkpoint)), scans)
        return plan_deployment(inputs, replace(QUICK, **asked))

    return planned


class Tuned(NamedTuple):
    """A release whose windows were tuned."""

    release: Path
    recipe: DeployRecipe
    lines: list[str]


@pytest.fixture(scope="module")
def tuned(plan_of: Callable[..., DeployPlan], tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    """By a threshold that any windows hold."""
    release, lines = tmp_path_factory.mktemp("tuned") / "release", list[str]()
    done = deploy(plan_of(overlap=None, min_dice=0.1, report=True), release, say=lines.append)
    return Tuned(release, done.recipe, lines)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_fewest_windows_that_hold_are_those_of_the_release(tuned: Tuned) -> None:
    verify(tuned.release)
    told = json.loads((tuned.release / "candidates.json").read_text())
    stage = told["stages"]["tiling"]
    taken, *others = stage["alternatives"]
    assert (taken["outcome"], {one["outcome"] for one in others}) == ("kept", {"no gain"})
    assert taken["windows"] == min(one["windows"] for one in stage["alternatives"]) < stage["windows"]
    assert all(one["min_dice"] is not None for one in stage["alternatives"])
    assert tuned.recipe.overlap == told["overlap"] == taken["overlap"] == 0.2812  # 32 windows share 9 voxels
    (chosen,) = [one for one in told["candidates"] if one["verdict"] == "chosen"]
    assert chosen["min_dice"] == taken["min_dice"] < 1
    assert "windows that overlap by 0.2812, not by 0.5" in chosen["reasons"][-1]
    assert sum(line.startswith("windows that overlap by") for line in tuned.lines) == len(stage["alternatives"])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_whoever_opens_the_release_has_its_windows_and_the_report_is_of_them(
    tuned: Tuned, plan_of: Callable[..., DeployPlan]
) -> None:
    plan = plan_of()
    with open_session(tuned.release / "fp32.onnx", threads=1) as session:
        found = segment(session, plan.inputs.judged[0].read_for(session.spec))
    told = json.loads((tuned.release / "candidates.json").read_text())["stages"]["tiling"]
    assert found.windows.total == told["alternatives"][0]["windows"]
    report = json.loads((tuned.release / "report.json").read_text())
    assert report["verdict"] == "pass"
    (run,) = report["cases"][0]["runs"]
    assert run["sqnr_db"] == told["gate"][0]["cases"][0]["sqnr_db"] < 60
    assert {label["label"]: label["dice"] for label in run["labels"]} == told["gate"][0]["cases"][0]["dice"]
    lost = {one["name"]: one["figures"] for one in report["candidates"]}
    for one in told["alternatives"][1:]:
        assert lost[f"windows that overlap by {one['overlap']:g}"]["min_dice"] == one["min_dice"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_recipe_makes_the_same_bytes_again_and_judges_no_other_windows(
    tuned: Tuned, plan_of: Callable[..., DeployPlan], tmp_path: Path
) -> None:
    lines: list[str] = []
    again = deploy(plan_of(**{**vars(tuned.recipe), "report": False}), tmp_path / "again", say=lines.append)
    assert again.recipe == replace(tuned.recipe, report=False)
    for name in ("fp32.onnx", "fp32.onnx.json"):
        assert sha256(tmp_path / "again" / name) == sha256(tuned.release / name)
    assert [line for line in lines if line.startswith("windows that overlap by")] == [
        line for line in tuned.lines if line.startswith("windows that overlap by 0.2812: kept")
    ]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_windows_that_do_not_hold_are_not_taken_and_end_it_where_the_recipe_names_them(
    plan_of: Callable[..., DeployPlan], tmp_path: Path
) -> None:
    strict = {"min_dice": 0.9995}
    refused = deploy(plan_of(overlap=0.0, **strict), tmp_path / "release")
    assert (refused.release, refused.chosen) == (None, None)
    assert "windows that overlap by 0.2812: refused" in refused.candidates[0].reasons[-1]
    assert refused.candidates[0].min_dice is not None
    assert refused.candidates[0].min_dice < 0.9995
    lines: list[str] = []
    done = deploy(plan_of(overlap=None, **strict), tmp_path / "release", say=lines.append)
    assert done.release is not None
    assert done.recipe.overlap == 0.5
    assert sum(": refused, " in line for line in lines) == len([one for one in lines if one.startswith("windows that")])
    assert any("time what holds its gate, in turn: done before" in line for line in lines)
    assert "tiling" not in json.loads((tmp_path / "release" / "fp32.onnx.json").read_text())
