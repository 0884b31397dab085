"""What a user types, and what comes back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from medattn_edge.gates import TRUE_LABELS
from medattn_edge.io import read_labels, read_volume

Run = Callable[..., Any]


def test_the_version_and_the_commands_are_told(medattn: Run) -> None:
    assert medattn("--version").stdout.startswith("medattn-edge 0.")
    text = medattn("--help").stdout
    assert all(command in text for command in ("train", "export", "inspect", "infer", "compare", "demo"))


def test_a_mistyped_option_suggests_the_nearest(medattn: Run) -> None:
    done = medattn("export", "x.safetensors", "-o", "x.onnx", "--atention")
    assert done.returncode == 2
    assert "--attention" in done.stderr


def test_options_cannot_be_abbreviated(medattn: Run) -> None:
    assert medattn("export", "x.safetensors", "--out", "x.onnx").returncode == 2


@pytest.mark.parametrize("command", ["compare", "calibrate", "deploy", "report"])
def test_the_word_that_others_have_for_the_share_is_refused_with_ours(medattn: Run, command: str) -> None:
    asked = medattn(command, "--help")
    assert "--min-true-dice-share" in asked.stdout
    assert "ratio" not in "".join(one for one in asked.stdout.split() if one.startswith("--min"))
    files = ("net.pth", "scan.nii.gz") if command in ("deploy", "calibrate") else ("net.pth", "net.onnx", "scan.nii.gz")
    old = medattn(command, *files, "-o", "out.html", "--min-dice-ratio", "0.999", "--json")
    if command == "compare":  # which writes nothing
        old = medattn(command, *files, "--min-dice-ratio", "0.999", "--json")
    assert old.returncode == 2
    error = json.loads(old.stdout)["error"]
    assert "--min-dice-ratio is now --min-true-dice-share" in error["message"]
    assert error["hint"] == "--min-true-dice-share 0.999"


def test_export_tells_the_agreement_and_leaves_a_pair_of_files(medattn: Run, checkpoint: Path, tmp_path: Path) -> None:
    done = medattn("export", checkpoint, "-o", tmp_path / "n.torchscript", "--patch", "48x64", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["spec"]["patch"] == [48, 64]
    assert {case["input"] for case in told["agreement"]} == {"CTChest4.nrrd", "random"}
    assert all(case["sqnr_db"] > 90 and case["label_match"] > 0.9999 for case in told["agreement"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["n.torchscript", "n.torchscript.json"]


def test_export_checks_on_the_scan_that_it_is_given(medattn: Run, checkpoint: Path, scan: Path, tmp_path: Path) -> None:
    done = medattn("export", checkpoint, "-o", tmp_path / "n.torchscript", "--scan", scan, "--json")
    assert {case["input"] for case in json.loads(done.stdout)["agreement"]} == {"scan.nii.gz", "random"}


def test_inspect_has_the_fields_that_scripts_rely_on(medattn: Run, checkpoint: Path, artifact: Path) -> None:
    fields = ("spec", "sha256", "parent_sha256", "precision", "inputs", "outputs", "operators", "parameters", "gflop")
    told = json.loads(medattn("inspect", artifact, "--json").stdout)
    origin = json.loads(medattn("inspect", checkpoint, "--json").stdout)
    assert set(fields) <= set(told)
    assert set(fields) <= set(origin)
    assert told["parent_sha256"] == origin["sha256"]
    assert told["outputs"] == {"logits": [-1, 3, 32, 32], "attention": [-1, 4, 32, 32]}
    assert told["gflop"] <= origin["gflop"]
    assert {"batch-norm", "nearest-upsampling"} <= {one["name"] for one in told["rewrites"]}
    assert origin["notes"] == {"command": "made for a test"}
    text = medattn("inspect", artifact).stdout
    assert "window:-1000:400" in text
    assert told["sha256"] in text


def test_windows_that_were_tuned_are_told_and_used_but_no_part_of_the_spec_for_another_file(
    medattn: Run, artifact: Path, scan: Path, tmp_path: Path
) -> None:
    from medattn_edge.artifact import Artifact, manifest_path

    usual, tuned = Artifact.read(artifact).manifest, tmp_path / "tuned.onnx"
    tuned.write_bytes(artifact.read_bytes())
    spec = replace(usual.spec, overlap=0.125)
    replace(usual, spec=spec, tiling={"reference_overlap": 0.5}).write(manifest_path(tuned))
    assert "windows" not in medattn("inspect", artifact).stdout
    assert "overlap by 0.125; held to the checkpoint's, which overlap by 0.5" in medattn("inspect", tuned).stdout
    assert json.loads(medattn("inspect", tuned, "--json").stdout)["spec"]["overlap"] == 0.125
    assert json.loads(medattn("inspect", tuned, "--spec").stdout)["overlap"] == 0.5
    totals = []
    for words in ((artifact,), (tuned,), (tuned, "--overlap", 0.5)):
        done = medattn("infer", words[0], scan, "-o", tmp_path / "labels.nii.gz", *words[1:], "--json")
        totals.append(json.loads(done.stdout)["windows"]["total"])
    assert totals[0] == totals[2] >= totals[1]


def test_infer_writes_on_the_scans_own_grid(medattn: Run, artifact: Path, scan: Path, tmp_path: Path) -> None:
    done = medattn(
        "infer", artifact, scan, "-o", tmp_path / "labels.nii.gz", "--probabilities", tmp_path / "p.npz",
        "--attention", tmp_path / "maps.nii.gz", "--overlay", tmp_path / "picture.png", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    labels, original = nibabel.load(tmp_path / "labels.nii.gz"), nibabel.load(scan)
    np.testing.assert_allclose(labels.affine, original.affine, atol=1e-5)
    assert labels.shape == original.shape
    told = json.loads(done.stdout)
    values = read_labels(tmp_path / "labels.nii.gz").voxels
    assert told["voxels"] == {"right_lung": int((values == 1).sum()), "left_lung": int((values == 2).sum())}
    voxel_ml = 2.5 * 2.5 * 8 / 1000
    for name, count in told["voxels"].items():
        assert told["volumes_ml"][name] == pytest.approx(count * voxel_ml, rel=1e-4)
    probabilities = read_volume(tmp_path / "p.npz").voxels
    np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-5)
    np.testing.assert_array_equal(probabilities.argmax(0), values)
    assert nibabel.load(tmp_path / "maps.nii.gz").shape == (*original.shape, 4)
    assert (tmp_path / "picture.png").stat().st_size > 5000


def test_every_backend_gives_the_same_labels(
    medattn: Run, checkpoint: Path, artifact: Path, scan: Path, tmp_path: Path
) -> None:
    script = tmp_path / "n.torchscript"
    assert medattn("export", checkpoint, "-o", script).returncode == 0
    found = {}
    for path in (checkpoint, artifact, script):
        done = medattn("infer", path, scan, "-o", tmp_path / "labels.npz", "--threads", 1)
        assert done.returncode == 0, done.stderr
        found[path.suffix] = read_labels(tmp_path / "labels.npz").voxels
    assert np.unique(found[".onnx"]).size >= 2
    for labels in found.values():
        assert (labels == found[".onnx"]).mean() > 0.9999


def test_compare_passes_an_honest_artifact(medattn: Run, checkpoint: Path, artifact: Path, scan: Path) -> None:
    done = medattn("compare", checkpoint, artifact, scan, "--min-dice", 0.999, "--min-sqnr-db", 90, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["verdict"] == "pass"
    assert told["thresholds"] == {"min_dice": 0.999, "min_sqnr_db": 90.0}
    (candidate,) = told["candidates"]
    assert (candidate["backend"], candidate["verdict"]) == ("onnxruntime", "pass")
    (case,) = candidate["cases"]
    fields = {"scan", "max_abs", "sqnr_db", "label_match", "dice", "volume_change_percent", "boundary_flips"}
    assert fields <= set(case)
    assert set(case["dice"]) == {"right_lung", "left_lung"}


def test_compare_fails_another_network_with_exit_code_1(
    medattn: Run, checkpoint: Path, artifact: Path, scan: Path, tmp_path: Path
) -> None:
    from medattn_edge.models import checkpoint as checkpoints

    loaded = checkpoints.load(checkpoint)
    for parameter in loaded.network.head.parameters():
        parameter.data.mul_(-1)
    checkpoints.save(tmp_path / "other.safetensors", loaded.network, loaded.spec)
    done = medattn("compare", tmp_path / "other.safetensors", artifact, scan, "--json")
    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert told["verdict"] == "fail"
    assert told["candidates"][0]["cases"][0]["failures"]
    text = medattn("compare", tmp_path / "other.safetensors", artifact, scan)
    assert text.returncode == 1
    assert "FAIL" in text.stdout
    assert "was not made from" in text.stderr


def test_compare_judges_the_true_dice_too(medattn: Run, checkpoint: Path, artifact: Path, scan: Path) -> None:
    truth = scan.with_name("truth.nii.gz")
    words = ["compare", checkpoint, artifact, scan, "--labels", truth, "--label-value", "right_lung=1"]
    words += ["--label-value", "left_lung=9", "--min-true-dice-share", "0.999", "--json"]
    refused = medattn(*words)  # no voxel has the value 9: nothing can be judged of that label
    assert refused.returncode == 4
    assert json.loads(refused.stdout)["error"]["hint"].endswith("or --judge-labels right_lung, to judge nothing else")
    done = medattn(*words, "--judge-labels", "right_lung")
    assert done.returncode == 0, done.stderr
    (case,) = json.loads(done.stdout)["candidates"][0]["cases"]
    assert set(case["reference_dice"]) == {"right_lung"}
    assert json.loads(done.stdout)["thresholds"] == TRUE_LABELS.limits
    assert case["reference_dice"]["right_lung"] == pytest.approx(case["candidate_dice"]["right_lung"], abs=1e-4)


@pytest.mark.slow
def test_compare_gives_the_reference_the_settings_of_the_export(
    medattn: Run, scan: Path, tmp_path: Path, vectors: Any
) -> None:
    import torch

    state = {key: torch.from_numpy(np.array(value)) for key, value in vectors.state_dict("agn_dsv").items()}
    torch.save(state, tmp_path / "official.pth")
    words = ["--patch", "16x16x16", "--set", "align_corners=true", "--labels", "background,a,b,c"]
    export = medattn("export", tmp_path / "official.pth", "-o", tmp_path / "n.torchscript", *words)
    assert export.returncode == 0, export.stderr
    done = medattn("compare", tmp_path / "official.pth", tmp_path / "n.torchscript", scan, "--min-sqnr-db", 90)
    assert done.returncode == 0, done.stdout


def test_compare_takes_the_patch_that_the_artifact_was_exported_for(
    medattn: Run, checkpoint: Path, scan: Path, tmp_path: Path
) -> None:
    assert medattn("export", checkpoint, "-o", tmp_path / "n.torchscript", "--patch", "48x48").returncode == 0
    assert medattn("compare", checkpoint, tmp_path / "n.torchscript", scan).returncode == 0


@pytest.mark.parametrize("command", ["inspect", "release"])
def test_a_command_without_arguments_shows_its_help_and_says_so(medattn: Run, command: str) -> None:
    done = medattn(command)
    assert (done.returncode, f" {command} [OPTIONS]" in done.stdout) == (2, True)
    assert "error: no arguments" in done.stderr
    assert f"next: medattn-edge {command} " in done.stderr
