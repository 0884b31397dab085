"""deploy as it is typed: the recipe, the plan, and every way to be told no before any work is done."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medattn_edge.deploy import DeployRecipe
from medattn_edge.newer_python import tomllib
from medattn_edge.volume import Volume
from tests.support.networks import gated_spec, random_network
from tests.support.scans import write_nifti

Run = Callable[..., Any]


@pytest.fixture
def words(checkpoint: Path, scan: Path, tmp_path: Path) -> tuple[Any, ...]:
    """A deployment of small files to a folder that is not there yet."""
    return ("deploy", checkpoint, scan, "-o", tmp_path / "release")


def test_the_recipe_of_the_options_is_printed_and_taken_again(medattn: Run, words: Any, tmp_path: Path) -> None:
    options = ("--min-dice", 0.98, "--deadline-ms", 50, "--candidate", "fp32.xml", "--judge-labels", "right_lung")
    options = (*options, "--overlap", 0)
    done = medattn(*words, *options, "--dump-config")
    assert done.returncode == 0, done.stderr
    recipe = DeployRecipe.from_toml(done.stdout)
    assert (recipe.min_dice, recipe.deadline_ms, recipe.candidates) == (0.98, 50.0, ("fp32.xml",))
    assert recipe.overlap == 0.0
    (tmp_path / "deploy.toml").write_text(done.stdout)
    again = medattn(*words, "--config", tmp_path / "deploy.toml", "--dump-config")
    assert again.stdout == done.stdout
    other = medattn(*words, "--config", tmp_path / "deploy.toml", "--min-dice", 0.9, "--dump-config")
    assert tomllib.loads(other.stdout)["min_dice"] == 0.9
    assert tomllib.loads(other.stdout)["deadline_ms"] == 50.0


def test_a_dry_run_prints_the_plan_and_writes_nothing(medattn: Run, words: Any, tmp_path: Path) -> None:
    done = medattn(*words, "--dry-run")
    assert done.returncode == 0, done.stderr
    for text in ("fp32.onnx", "left out: fp16.onnx", "held to, int8, whole scans: min_dice 0.999", "write the release"):
        assert text in done.stdout
    assert "hold windows that overlap by 0.375, 0.25, 0.125, 0, not 0.5, to the checkpoint" in done.stdout
    assert "assumed: only one scan" in done.stdout
    plan = json.loads(medattn(*words, "--dry-run", "--json").stdout)
    assert plan["thresholds"]["int8, whole scans"] == {"min_dice": 0.999}
    assert {one["candidate"] for one in plan["candidates"]} >= {"fp32.onnx", "fp16.onnx", "int8-onnxruntime.onnx"}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("more", "code", "found"),
    [
        (("--key", "{scan}"), 2, "others may read"),
        (("--key", "{tmp}/no-such-key"), 2, "no-such-key"),
        (("--config", "{scan}"), 4, "cannot be read"),
        (("--config", "{tmp}/no.toml"), 4, "No such file"),
        (("--labels", "{tmp}/no.nii.gz"), 4, "does not exist"),
        (("--held-out", "{scan}"), 2, "a scan comes twice"),
        (("--min-true-dice-share", "0.9"), 2, "without --labels"),
        (("--label-value", "right_lung=5"), 2, "without --labels"),
        (("--candidate", "net.onnx"), 2, "no candidate 'net.onnx'"),
        (("--deadline-ms", "0"), 2, "deadline_ms is 0"),
        (("--min-dice", "1.5"), 2, "--min-dice"),
        (("--overlap", "1"), 2, "overlap is 1.0"),
        (("--overlap", "0.25", "--target", "jetson"), 2, "an overlap of 0.25 for jetson"),
        (("--target", "gpu"), 2, "--target"),
        (("--spec", "{scan}"), 4, "cannot be read"),
        (("--expect", "{scan}"), 2, "carries its own settings"),
        (("--judge-labels", "liver"), 2, "--judge-labels names liver"),
        (("--label-value", "liver=5", "--labels", "{scan}"), 2, "liver"),
        (("--set", "width"), 2, "KEY=VALUE"),
    ],
)
def test_what_cannot_be_followed_is_said_before_any_work(
    medattn: Run, words: Any, scan: Path, tmp_path: Path, more, code, found
) -> None:
    places = {"scan": scan, "tmp": tmp_path}
    done = medattn(*words, *(word.format(**places) for word in more), "--json")
    assert done.returncode == code, done.stdout + done.stderr
    error = json.loads(done.stdout)["error"]
    assert found in error["message"] + error["hint"]
    assert list(tmp_path.iterdir()) == []


def test_without_a_scan_or_an_output_it_is_refused(medattn: Run, checkpoint: Path, scan: Path, tmp_path: Path) -> None:
    done = medattn("deploy", checkpoint, "-o", tmp_path / "release", "--json")
    assert (done.returncode, "no scan" in done.stdout) == (2, True)
    done = medattn("deploy", checkpoint, scan, "--json")
    assert (done.returncode, "no output" in done.stdout) == (2, True)
    done = medattn("deploy", checkpoint, scan, "-o", tmp_path / "no" / "release", "--json")
    assert (done.returncode, "does not exist" in done.stdout) == (3, True)


def test_keys_that_others_may_read_and_public_ones_are_refused(medattn: Run, words: Any, tmp_path: Path) -> None:
    key = tmp_path / "keys" / "KEY"
    key.parent.mkdir()
    assert medattn("release", "keygen", "-o", key).returncode == 0
    done = medattn(*words, "--key", key.with_name("KEY.pub"))
    assert (done.returncode, "public key" in done.stderr or "mode" in done.stderr) == (2, True)
    key.chmod(0o644)
    done = medattn(*words, "--key", key)
    assert (done.returncode, "others may read" in done.stderr) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["keys"]


@pytest.mark.parametrize("kind", ["a folder", "a file", "a link to nowhere"])
def test_what_is_at_the_output_stays(medattn: Run, words: Any, tmp_path: Path, kind: str) -> None:
    output = tmp_path / "release"
    if kind == "a folder":
        output.mkdir()
    elif kind == "a file":
        output.write_text("mine")
    else:
        output.symlink_to(tmp_path / "nowhere")
    done = medattn(*words)
    assert done.returncode == 2
    assert "exists; expected a new folder or .zip" in done.stderr
    assert os.path.lexists(output)
    assert len(list(tmp_path.iterdir())) == 1


def test_markup_in_names_is_printed_as_it_is(medattn: Run, tmp_path: Path) -> None:
    from medattn_edge.models.checkpoint import save

    folder = tmp_path / "[red]<b>it's"
    folder.mkdir()
    spec = gated_spec(labels=("background", "[bold]organ[/bold]<i>&amp;"))
    save(folder / "[link].safetensors", random_network(spec, balanced=True), spec)
    voxels = np.random.default_rng(0).random((4, 40, 44)).astype(np.float32)
    write_nifti(folder / "[blink].nii.gz", Volume(voxels, np.diag([2.0, 2.0, 4.0, 1.0])))
    output = folder / "[red]release"
    words = ("deploy", folder / "[link].safetensors", folder / "[blink].nii.gz", "-o", output, "--dry-run")
    done = medattn(*words)
    assert done.returncode == 0, done.stderr
    plan = json.loads(medattn(*words, "--json").stdout)
    assert DeployRecipe.from_toml(plan["recipe"]).name == "link"
    output.mkdir()
    done = medattn(*words)
    assert done.returncode == 2
    assert f"{output} exists" in done.stderr


@pytest.mark.slow
def test_a_release_that_is_signed_opens_and_a_deadline_that_nothing_keeps_is_exit_code_1(
    medattn: Run, checkpoint: Path, scan: Path, tmp_path: Path
) -> None:
    key = tmp_path / "KEY"
    assert medattn("release", "keygen", "-o", key).returncode == 0
    quick = ("--candidate", "fp32.onnx", "--duration", 0.2, "--tune-duration", 1, "--threads", 1)
    words = ("deploy", checkpoint, scan, *quick, "--key", key)
    failed = medattn(*words, "-o", tmp_path / "late", "--deadline-ms", 1e-6)
    assert failed.returncode == 1, failed.stderr
    assert "FAIL: no candidate holds every threshold" in failed.stdout
    assert "and the deadline is 1e-06" in failed.stdout
    assert not (tmp_path / "late").exists()
    shutil.move(tmp_path / "late.deploy", tmp_path / "release.deploy")  # as if it had been the same output
    done = medattn(*words, "-o", tmp_path / "release", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["verdict"], document["chosen"]) == ("pass", "fp32.onnx")
    assert "done before" in done.stderr
    assert medattn("release", "verify", tmp_path / "release", "--trusted", f"{key}.pub").returncode == 0
    labels = tmp_path / "labels.nii.gz"
    assert medattn("infer", tmp_path / "release", scan, "-o", labels, "--trusted", f"{key}.pub").returncode == 0
    assert labels.is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"KEY", "KEY.pub", "release", "labels.nii.gz"}
