"""A deployment: a release with what lost, ended at any stage and gone on with, the same bytes from its own recipe."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from medattn_edge.artifact import Artifact
from medattn_edge.deploy import DeployInputs, Deployment, DeployPlan, DeployRecipe, deploy, plan_deployment
from medattn_edge.errors import OutputError, ScanError, UsageError
from medattn_edge.io import as_scan
from medattn_edge.release import generate_key, load_private_key, trusted_keys, verify
from tests.deploy.conftest import AFFINE, QUICK
from tests.support.scans import write_nifti

Inputs = Callable[..., DeployInputs]
STAGES = ("fp32.onnx", "gate-fp32.onnx", "foreground", "measure", "release")


class Interrupted(NamedTuple):
    """A deployment that was interrupted once at the beginning of every stage, and went on each time."""

    deployment: Deployment
    folder: Path
    runs: list[list[str]]  # what each run said
    kept: list[set[str]]  # stages that were there after each run
    plans: list[str]


def interrupted_at(plan: DeployPlan, output: Path, number: int, key: Path) -> list[str]:
    """Run until a stage begins; there, somebody types Ctrl-C."""
    lines: list[str] = []

    def say(text: str) -> None:
        lines.append(text)
        if text.startswith(f"{number}/") and ": " not in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        deploy(plan, output, key=load_private_key(key), say=say)
    return lines


@pytest.fixture(scope="module")
def interrupted(deployable: Path, tmp_path_factory: pytest.TempPathFactory) -> Interrupted:
    from medattn_edge.deploy import DeploySource
    from medattn_edge.models.checkpoint import load

    folder = tmp_path_factory.mktemp("interrupted")
    generate_key(folder / "KEY", "A Team")
    path = deployable / "net.safetensors"
    scans = [as_scan(deployable / f"Doe-Jane-{number}.nii.gz") for number in (0, 1)]
    plan = plan_deployment(DeployInputs.of(DeploySource(path, load(path)), scans), QUICK)
    assert [stage.name for stage in plan.stages] == list(STAGES)
    runs, kept, plans = [], [], []
    work, output = folder / "release.deploy", folder / "release"
    for number in range(1, len(STAGES) + 1):
        runs.append(interrupted_at(plan, output, number, folder / "KEY"))
        kept.append({one.name for one in work.iterdir() if (one / "stage.json").is_file()})
        plans.append((work / "plan.json").read_text())
        assert not output.exists()
    lines: list[str] = []
    deployment = deploy(plan, output, key=load_private_key(folder / "KEY"), say=lines.append)
    return Interrupted(deployment, folder, [*runs, lines], kept, plans)


def test_a_deployment_goes_on_with_the_stage_that_it_was_ended_in(interrupted: Interrupted) -> None:
    for number, (lines, kept) in enumerate(zip(interrupted.runs, interrupted.kept, strict=False)):
        assert kept == set(STAGES[:number])
        assert sum(line.endswith(": done before") for line in lines) == max(0, number - 1) + (number > 0) * 0
    assert sum(line.endswith(": done before") for line in interrupted.runs[-1]) == len(STAGES) - 1


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
        assert b"Doe" not in path.read_bytes(), path.name
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


def test_a_release_that_was_put_in_place_before_a_kill_is_its_own(
    interrupted: Interrupted, inputs_of: Inputs, tmp_path: Path
) -> None:
    """Killed between the two last steps: the release is there, and so is the work folder."""
    plan, output = plan_deployment(inputs_of(), replace(QUICK, candidates=("int8-onnxruntime.onnx",))), tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        from medattn_edge.deploy.work_folder import WorkFolder

        patch.setattr(WorkFolder, "remove", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        plan = interrupted.deployment.plan
        with pytest.raises(KeyboardInterrupt):
            deploy(plan, output)
    before = verify(output).manifest_sha256
    assert (tmp_path / "out.deploy").is_dir()
    deployment = deploy(plan, output)
    assert deployment.release is not None
    assert deployment.release.manifest_sha256 == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_output_that_is_there_is_refused_before_any_work(inputs_of: Inputs, tmp_path: Path) -> None:
    plan = plan_deployment(inputs_of(), QUICK)
    for name in ("release", "release.zip"):
        output = tmp_path / name
        output.mkdir() if name == "release" else output.write_text("mine")
        with pytest.raises(UsageError, match="exists"):
            deploy(plan, output)
        assert not output.with_name(name + ".deploy").exists()


def test_a_threshold_that_nothing_holds_gives_figures_and_no_release(inputs_of: Inputs, tmp_path: Path) -> None:
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


def test_other_thresholds_go_on_from_what_does_not_depend_on_them(inputs_of: Inputs, tmp_path: Path) -> None:
    recipe = replace(QUICK, candidates=("int8-onnxruntime.onnx",), min_dice=1.0)
    deploy(plan_deployment(inputs_of(), recipe), tmp_path / "release")
    lines: list[str] = []
    deploy(plan_deployment(inputs_of(), replace(recipe, deadline_ms=1e-6)), tmp_path / "release", say=lines.append)
    assert [line for line in lines if line.endswith("done before")] == [
        "1/6 export in FP32: done before",
        "2/6 hold FP32 to the checkpoint on whole scans: done before",
        "3/6 look for foreground to calibrate on: done before",
        *[line for line in lines if line.startswith(("4/6", "5/6")) and line.endswith("done before")],
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


def background(deployable: Path, folder: Path, artifact: Path) -> Path:
    """A scan in which the network finds nothing."""
    import numpy as np

    from medattn_edge import open_session, read_volume, segment
    from medattn_edge.volume import Volume

    with open_session(artifact, threads=1) as session:
        for value in np.linspace(-3, 3, 13):
            voxels = np.full((4, 40, 44), value, np.float32)
            path = write_nifti(folder / "empty.nii.gz", Volume(voxels, AFFINE))
            if not segment(session, read_volume(path)).labels.voxels.any():
                return path
    raise AssertionError("the network finds something in any constant scan")


@pytest.mark.parametrize("where", ["calibrated on", "judged on"])
def test_scans_without_foreground_are_refused(
    interrupted: Interrupted, inputs_of: Inputs, deployable: Path, tmp_path: Path, where: str
) -> None:
    from medattn_edge.deploy import DeploySource

    empty = as_scan(background(deployable, tmp_path, interrupted.folder / "release" / "fp32.onnx"))
    whole, source = as_scan(deployable / "Doe-Jane-0.nii.gz"), inputs_of().source
    assert isinstance(source, DeploySource)
    scans, held = ([empty], [whole]) if where == "calibrated on" else ([whole], [empty])
    plan = plan_deployment(DeployInputs.of(source, scans, held), QUICK)
    with pytest.raises(ScanError) as raised:
        deploy(plan, tmp_path / "release")
    assert raised.value.exit_code == 4
    assert "finds none of organ" in raised.value.found
    assert not (tmp_path / "release").exists()


def test_the_exported_graph_says_what_it_comes_from(interrupted: Interrupted) -> None:
    manifest = Artifact.read(interrupted.folder / "release" / "fp32.onnx").manifest
    assert manifest.lineage == (interrupted.deployment.plan.hashes["checkpoint"],)
    assert [case["input"] for case in manifest.agreement] == ["scan 1", "random"]
