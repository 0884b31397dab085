"""A deployment: a release with what lost, ended at any stage and gone on with, the same bytes from its own recipe."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from medattn_edge.artifact import Artifact
from medattn_edge.deploy import (
    DeployInputs,
    Deployment,
    DeployPlan,
    DeployRecipe,
    DeploySource,
    deploy,
    plan_deployment,
)
from medattn_edge.errors import OutputError, ScanError, UsageError
from medattn_edge.io import as_scan
from medattn_edge.models.checkpoint import load
from medattn_edge.release import generate_key, load_private_key, trusted_keys, verify
from medattn_edge.volume import Volume
from tests.deploy.conftest import AFFINE, QUICK
from tests.support.networks import gated_spec, random_network
from tests.support.scans import write_nifti

Inputs = Callable[..., DeployInputs]
pytestmark = pytest.mark.slow

STAGES = ("fp32.onnx", "gate-fp32.onnx", "foreground", "measure", "release")


class Interrupted(NamedTuple):
    """A deployment that was interrupted once at the beginning of every stage, and went on each time."""

    deployment: Deployment
    folder: Path
    runs: list[list[str]]  # what each run said
    kept: list[set[str]]  # stages that were there after each run
    plans: list[str]
    work: Path  # what the work folder was right before the release was put in its place


def interrupted_at(plan: DeployPlan, output: Path, line: str, key: Path) -> list[str]:
    """Run until a line is said; there, somebody types Ctrl-C."""
    lines: list[str] = []

    def say(text: str) -> None:
        lines.append(text)
        if text.startswith(line) and not text.endswith("done before"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        deploy(plan, output, key=load_private_key(key), say=say)
    return lines


@pytest.fixture(scope="module")
def interrupted(deployable: Path, tmp_path_factory: pytest.TempPathFactory) -> Interrupted:
    folder = tmp_path_factory.mktemp("interrupted")
    generate_key(folder / "KEY", "A Team")
    path = deployable / "net.safetensors"
    scans = [as_scan(deployable / f"Doe-Jane-{number}.nii.gz") for number in (0, 1)]
    plan = plan_deployment(DeployInputs.of(DeploySource(path, load(path)), scans), QUICK)
    assert [stage.name for stage in plan.stages] == list(STAGES)
    runs, kept, plans = [], [], []
    work, output = folder / "release.deploy", folder / "release"
    for number in range(1, len(STAGES) + 1):
        runs.append(interrupted_at(plan, output, f"{number}/", folder / "KEY"))
        kept.append({one.name for one in work.iterdir() if (one / "stage.json").is_file()})
        plans.append((work / "plan.json").read_text())
        assert not output.exists()
    ended = f"{len(STAGES)}/{len(STAGES)} write the release: "
    runs.append(interrupted_at(plan, output, ended, folder / "KEY"))
    saved = Path(shutil.copytree(work, tmp_path_factory.mktemp("work") / work.name))
    lines: list[str] = []
    deployment = deploy(plan, output, key=load_private_key(folder / "KEY"), say=lines.append)
    return Interrupted(deployment, folder, [*runs, lines], kept, plans, saved)


def test_a_deployment_goes_on_with_the_stage_that_it_was_ended_in(interrupted: Interrupted) -> None:
    for number, (lines, kept) in enumerate(zip(interrupted.runs, interrupted.kept, strict=False)):
        assert kept == set(STAGES[:number])
        assert sum(line.endswith(": done before") for line in lines) == max(0, number - 1)
    assert sum(line.endswith(": done before") for line in interrupted.runs[-1]) == len(STAGES)


def key_of(interrupted: Interrupted) -> Any:
    return load_private_key(interrupted.folder / "KEY")


def test_the_thresholds_were_written_down_before_anything_was_run(interrupted: Interrupted) -> None:
    assert interrupted.kept[0] == set()
    first = json.loads(interrupted.plans[0])
    assert first["thresholds"] == {
        name: dict(limits) for name, limits in interrupted.deployment.plan.thresholds.items()
    }
    assert set(interrupted.plans) == {(interrupted.folder / "release" / "plan.json").read_text()}


def test_the_work_folder_is_gone_and_the_release_is_signed_and_whole(interrupted: Interrupted) -> None:
    assert {path.name for path in interrupted.folder.iterdir()} == {"KEY", "KEY.pub", "release"}
    release = verify(interrupted.folder / "release", trusted_keys(interrupted.folder / "KEY.pub"))
    assert release.manifest == interrupted.deployment.release.manifest  # type: ignore[union-attr]
    assert {"deploy.toml", "plan.json", "candidates.json", "fp32.onnx"} <= set(release.manifest.files)
    assert release.manifest.default == "fp32.onnx"


def test_the_candidates_are_stored_with_their_figures_and_with_those_that_were_left_out(
    interrupted: Interrupted,
) -> None:
    document = json.loads((interrupted.folder / "release" / "candidates.json").read_text())
    rows = {row["candidate"]: row for row in document["candidates"]}
    assert rows["fp32.onnx"]["verdict"] == "chosen"
    assert rows["fp32.onnx"]["p50_ms"] > 0
    assert rows["fp32.onnx"]["min_dice"] > 0.999
    assert rows["fp16.onnx"]["reasons"] == ["CPUs compute an FP16 graph in FP32 between casts"]
    assert rows["int8-onnxruntime.onnx"]["reasons"] == ["not asked for"]
    assert set(document["stages"]) == set(STAGES[:-1])


def test_no_document_of_the_release_names_a_scan(interrupted: Interrupted, deployable: Path) -> None:
    for path in (interrupted.folder / "release").iterdir():
        assert b"Doe-Jane" not in path.read_bytes(), path.name
        assert str(deployable).encode() not in path.read_bytes(), path.name


def test_time_that_is_left_is_estimated_once_something_was_measured(interrupted: Interrupted) -> None:
    lines = [line for lines in interrupted.runs for line in lines]
    assert any("left in total" in line for line in lines)
    assert "left in total" not in lines[0]


def test_the_stored_recipe_names_what_was_chosen_and_is_the_recipe_of_itself(interrupted: Interrupted) -> None:
    stored = DeployRecipe.read(interrupted.folder / "release" / "deploy.toml")
    assert stored == interrupted.deployment.recipe
    assert stored.candidates == ("fp32.onnx",)
    assert stored.inputs == interrupted.deployment.plan.hashes
    assert (stored.threads, stored.run_threads) == (1, 1)


def test_the_stored_recipe_makes_the_same_graph_and_the_same_recipe_again(
    interrupted: Interrupted, inputs_of: Inputs, tmp_path: Path
) -> None:
    stored = DeployRecipe.read(interrupted.folder / "release" / "deploy.toml")
    deployment = deploy(plan_deployment(inputs_of(), stored), tmp_path / "again.zip")
    assert deployment.recipe.to_toml() == stored.to_toml()
    again, first = deployment.release.manifest, interrupted.deployment.release.manifest  # type: ignore[union-attr]
    for name in ("fp32.onnx", "fp32.onnx.json", "deploy.toml"):
        assert again.files[name] == first.files[name], name


def test_a_release_that_was_put_in_place_right_before_a_kill_is_its_own(
    interrupted: Interrupted, tmp_path: Path
) -> None:
    """What a kill between the two last steps leaves: the release in its place, and the work folder without it."""
    shutil.copytree(interrupted.work, tmp_path / "release.deploy")
    (tmp_path / "release.deploy" / "release" / "out" / "release").rename(tmp_path / "release")
    lines: list[str] = []
    deployment = deploy(interrupted.deployment.plan, tmp_path / "release", key=key_of(interrupted), say=lines.append)
    assert sum(line.endswith(": done before") for line in lines) == len(STAGES)
    assert deployment.release.manifest == interrupted.deployment.release.manifest  # type: ignore[union-attr]
    assert [path.name for path in tmp_path.iterdir()] == ["release"]


def test_another_release_that_appeared_meanwhile_is_left_alone(interrupted: Interrupted, tmp_path: Path) -> None:
    shutil.copytree(interrupted.work, tmp_path / "release.deploy")
    (tmp_path / "release").mkdir()
    (tmp_path / "release" / "mine.txt").write_text("precious")
    with pytest.raises(UsageError, match="exists"):
        deploy(interrupted.deployment.plan, tmp_path / "release", key=key_of(interrupted))
    assert (tmp_path / "release" / "mine.txt").read_text() == "precious"
    assert (tmp_path / "release.deploy" / "release" / "out" / "release").is_dir()


def test_another_key_signs_again_without_any_other_stage(interrupted: Interrupted, tmp_path: Path) -> None:
    shutil.copytree(interrupted.work, tmp_path / "release.deploy")
    generate_key(tmp_path / "OTHER", "B Team")
    lines: list[str] = []
    other = load_private_key(tmp_path / "OTHER")
    deploy(interrupted.deployment.plan, tmp_path / "release", key=other, say=lines.append)
    assert sum(line.endswith(": done before") for line in lines) == len(STAGES) - 1
    release = verify(tmp_path / "release", trusted_keys(tmp_path / "OTHER.pub"))
    assert release.signer is not None
    assert release.signer.signer == "B Team"


@pytest.mark.parametrize("stage", STAGES[:-1])
def test_a_stage_whose_file_was_changed_is_not_taken(interrupted: Interrupted, tmp_path: Path, stage: str) -> None:
    """Its record is of other bytes: it is run again, and so is what depends on it."""
    shutil.copytree(interrupted.work, tmp_path / "release.deploy")
    path = tmp_path / "release.deploy" / stage / ("fp32.onnx" if stage == "fp32.onnx" else "stage.json")
    path.write_bytes(path.read_bytes()[:-3])
    number = STAGES.index(stage) + 1
    lines = interrupted_at(interrupted.deployment.plan, tmp_path / "release", f"{number}/", interrupted.folder / "KEY")
    assert sum(line.endswith(": done before") for line in lines) == number - 1


def test_an_output_that_is_there_is_refused_before_any_work(inputs_of: Inputs, tmp_path: Path) -> None:
    plan = plan_deployment(inputs_of(), QUICK)
    for name in ("release", "release.zip"):
        output = tmp_path / name
        output.mkdir() if name == "release" else output.write_text("mine")
        with pytest.raises(UsageError, match="exists"):
            deploy(plan, output)
        assert not output.with_name(name + ".deploy").exists()


def test_a_threshold_that_nothing_holds_gives_figures_and_no_release(inputs_of: Inputs, tmp_path: Path) -> None:
    """And another one goes on from what does not depend on it."""
    recipe = replace(QUICK, candidates=("int8-onnxruntime.onnx",), min_dice=1.0)
    deployment = deploy(plan_deployment(inputs_of(), recipe), tmp_path / "release")
    assert deployment.release is None
    assert deployment.chosen is None
    lost = next(one for one in deployment.candidates if one.plan.name == "int8-onnxruntime.onnx")
    assert lost.verdict == "not built"
    assert "Dice with the reference of organ is 0.9" in lost.reasons[0]
    assert not (tmp_path / "release").exists()
    document = deployment.to_json()
    assert (document["verdict"], document["release"], document["chosen"]) == ("fail", None, None)
    assert json.loads(json.dumps(document))["work"] == str(tmp_path / "release.deploy")
    lines: list[str] = []
    deploy(plan_deployment(inputs_of(), replace(recipe, deadline_ms=1e-6)), tmp_path / "release", say=lines.append)
    titles = [line.partition(": done before")[0].partition(" ")[2] for line in lines if ": done before" in line]
    assert titles == [
        "export in FP32",
        "hold FP32 to the checkpoint on whole scans",
        "look for foreground to calibrate on",
        "quantise by onnxruntime",
        "hold int8-onnxruntime.onnx to the checkpoint on whole scans",
    ]


@pytest.mark.parametrize("room", [512, 30_000])
def test_a_full_disk_is_named_and_the_same_command_goes_on(inputs_of: Inputs, tmp_path: Path, room: int) -> None:
    """512 bytes are full with the plan, 30,000 with the first graph."""
    plan = plan_deployment(inputs_of(), QUICK)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(OutputError, match="cannot write"):
            deploy(plan, tmp_path / "release")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == ["release.deploy"]
    assert {path.name for path in (tmp_path / "release.deploy").iterdir()} <= {"lock", "plan.json"}


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network that finds little in noise and nothing in air, and a scan of either."""
    from medattn_edge.models.checkpoint import save

    folder, spec = tmp_path_factory.mktemp("sparse"), gated_spec()
    network = random_network(spec, balanced=True)
    with torch.no_grad():
        list(network.parameters())[-1].sub_(torch.tensor([0.0, 5.0]))
    save(folder / "net.safetensors", network, spec)
    noise = np.random.default_rng(0).random((4, 40, 44)).astype(np.float32)
    for name, voxels in (("noise", noise), ("air", np.zeros_like(noise))):
        write_nifti(folder / f"{name}.nii.gz", Volume(voxels, AFFINE))
    return folder


@pytest.mark.parametrize(
    ("scans", "held", "where"),
    [
        (["air"], ["noise"], "in the 1 scans to calibrate on"),
        (["noise"], ["air"], "in the scan"),
    ],
)
def test_scans_without_foreground_are_refused(sparse: Path, tmp_path: Path, scans, held, where) -> None:
    path = sparse / "net.safetensors"
    source = DeploySource(path, load(path))
    given = ([as_scan(sparse / f"{name}.nii.gz") for name in names] for names in (scans, held))
    plan = plan_deployment(DeployInputs.of(source, *given), QUICK)
    with pytest.raises(ScanError) as raised:
        deploy(plan, tmp_path / "release")
    assert raised.value.exit_code == 4
    assert "finds none of organ" in raised.value.found
    assert where in raised.value.found
    assert not (tmp_path / "release").exists()


def test_the_exported_graph_says_what_it_comes_from(interrupted: Interrupted) -> None:
    manifest = Artifact.read(interrupted.folder / "release" / "fp32.onnx").manifest
    assert manifest.lineage == (interrupted.deployment.plan.hashes["checkpoint"],)
    assert [case["input"] for case in manifest.agreement] == ["scan 1", "random"]
