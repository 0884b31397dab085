"""Bad input: the right exit code, what to do next, and nothing lost."""

from __future__ import annotations

import gzip
import json
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

Run = Callable[..., Any]


def refused(done: Any, code: int, *words: str) -> None:
    """The command failed as it should: this exit code, these words, a next step, and no traceback."""
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    assert "next:" in done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


def nifti(path: Path, voxels: Any, affine: Any = None) -> Path:
    nibabel.save(nibabel.Nifti1Image(np.asarray(voxels, np.float32), np.eye(4) if affine is None else affine), path)
    return path


def noise(shape: tuple[int, ...]) -> Any:
    return np.random.default_rng(0).random(shape) * 1000 - 800


def test_a_missing_file(medattn: Run, artifact: Path, tmp_path: Path) -> None:
    refused(medattn("infer", artifact, tmp_path / "no.nii.gz", "-o", tmp_path / "l.nii.gz"), 4, "no.nii.gz")
    refused(medattn("inspect", tmp_path / "no.onnx"), 4, "no.onnx")
    refused(medattn("export", tmp_path / "no.pth", "-o", tmp_path / "l.onnx"), 4, "no.pth")


def test_a_truncated_checkpoint(medattn: Run, checkpoint: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(checkpoint.read_bytes()[:-1000])
    refused(medattn("export", cut, "-o", tmp_path / "l.onnx"), 4, "cut.safetensors")
    assert not (tmp_path / "l.onnx").exists()


def test_a_renamed_checkpoint(medattn: Run, checkpoint: Path, tmp_path: Path) -> None:
    renamed = tmp_path / "renamed.pth"
    shutil.copy(checkpoint, renamed)
    refused(medattn("export", renamed, "-o", tmp_path / "l.onnx"), 4, "renamed.pth")


def test_a_state_dict_of_another_network(medattn: Run, tmp_path: Path) -> None:
    import torch

    torch.save({"encoder.block1.weight": torch.zeros(8, 1, 3, 3), "fc.bias": torch.zeros(3)}, tmp_path / "x.pth")
    refused(medattn("export", tmp_path / "x.pth", "-o", tmp_path / "l.onnx"), 4, "layout")


def test_a_checkpoint_is_not_the_network_that_was_asked_for(medattn: Run, checkpoint: Path, tmp_path: Path) -> None:
    done = medattn("export", checkpoint, "-o", tmp_path / "l.onnx", "--network", "self-guided")
    refused(done, 4, "attention-unet-2d")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_scan_that_is_not_finite(medattn: Run, artifact: Path, tmp_path: Path, value: float) -> None:
    voxels = noise((20, 20, 4))
    voxels[3, 4, 2] = value
    scan = nifti(tmp_path / "scan.nii.gz", voxels)
    refused(medattn("infer", artifact, scan, "-o", tmp_path / "l.nii.gz"), 4, "not finite", "(2, 4, 3)")


def test_a_constant_scan(medattn: Run, artifact: Path, tmp_path: Path) -> None:
    scan = nifti(tmp_path / "scan.nii.gz", np.full((20, 20, 4), -7.0))
    refused(medattn("infer", artifact, scan, "-o", tmp_path / "l.nii.gz"), 4, "-7")


def test_a_scan_with_a_time_axis(medattn: Run, artifact: Path, tmp_path: Path) -> None:
    scan = nifti(tmp_path / "scan.nii.gz", noise((8, 8, 4, 3)))
    refused(medattn("infer", artifact, scan, "-o", tmp_path / "l.nii.gz"), 4, "3 channel", "slicer")


def test_a_singular_affine(medattn: Run, artifact: Path, tmp_path: Path) -> None:
    flat = np.array([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    scan = nifti(tmp_path / "scan.nii", noise((8, 8, 4)), flat)
    refused(medattn("infer", artifact, scan, "-o", tmp_path / "l.nii.gz"), 4, "singular")


def test_an_rgb_picture_for_a_grey_network(medattn: Run, artifact: Path, tmp_path: Path) -> None:
    picture = tmp_path / "p.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)).save(picture)
    refused(medattn("infer", artifact, picture, "-o", tmp_path / "l.png"), 4, "RGB")


def test_a_picture_without_spacing(medattn: Run, artifact: Path, tmp_path: Path) -> None:
    picture = tmp_path / "p.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40), np.uint8)).save(picture)
    refused(medattn("infer", artifact, picture, "-o", tmp_path / "l.png"), 4, "--pixel-spacing")
    done = medattn("infer", artifact, picture, "-o", tmp_path / "l.png", "--pixel-spacing", "3x3")
    assert done.returncode == 0, done.stderr


def test_a_truncated_scan(medattn: Run, artifact: Path, scan: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.nii.gz"
    cut.write_bytes(scan.read_bytes()[:2000])
    refused(medattn("infer", artifact, cut, "-o", tmp_path / "l.nii.gz"), 4, "cut.nii.gz")
    (tmp_path / "text.nii.gz").write_bytes(gzip.compress(b"this is no scan at all" * 100))
    refused(medattn("infer", artifact, tmp_path / "text.nii.gz", "-o", tmp_path / "l.nii.gz"), 4)


def test_a_patch_that_does_not_divide(medattn: Run, checkpoint: Path, tmp_path: Path) -> None:
    done = medattn("export", checkpoint, "-o", tmp_path / "l.onnx", "--patch", "100x96")
    refused(done, 2, "--patch 96x96")


@pytest.mark.parametrize("words", [["--patch", "big"], ["--batch", "0"], ["--batch", "many"], ["--opset", "3"]])
def test_options_that_cannot_be_used(medattn: Run, checkpoint: Path, tmp_path: Path, words: list[str]) -> None:
    refused(medattn("export", checkpoint, "-o", tmp_path / "l.onnx", *words), 2)


def test_an_output_of_an_unknown_kind_is_refused_before_the_work(
    medattn: Run, artifact: Path, scan: Path, checkpoint: Path, tmp_path: Path
) -> None:
    refused(medattn("infer", artifact, scan, "-o", tmp_path / "labels.doc"), 2, ".nii.gz")
    refused(medattn("export", checkpoint, "-o", tmp_path / "n.engine"), 2, ".onnx")
    refused(medattn("infer", artifact, scan, "-o", scan), 2)
    words = ["infer", artifact, scan, "-o", tmp_path / "labels.npz", "--overlay"]
    refused(medattn(*words, tmp_path / "picture.txt"), 2, "--overlay picture.png")
    refused(medattn(*words, tmp_path / "no" / "picture.png"), 3, "mkdir")
    assert list(tmp_path.iterdir()) == []


def test_wrong_channels(medattn: Run, artifact: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", voxels=noise((2, 4, 20, 20)), affine=np.eye(4)[[2, 1, 0, 3]])
    refused(medattn("infer", artifact, tmp_path / "two.npz", "-o", tmp_path / "l.npz"), 4, "2 channel")


def test_an_artifact_whose_hash_is_not_its_manifests(medattn: Run, artifact: Path, scan: Path, tmp_path: Path) -> None:
    other = tmp_path / "n.onnx"
    other.write_bytes(artifact.read_bytes() + b"\0")
    shutil.copy(f"{artifact}.json", f"{other}.json")
    refused(medattn("infer", other, scan, "-o", tmp_path / "l.nii.gz"), 5, "SHA-256")
    assert not (tmp_path / "l.nii.gz").exists()


def test_a_manifest_of_a_newer_schema(medattn: Run, artifact: Path, scan: Path, tmp_path: Path) -> None:
    other = tmp_path / "n.onnx"
    shutil.copy(artifact, other)
    values = json.loads(Path(f"{artifact}.json").read_text())
    Path(f"{other}.json").write_text(json.dumps({**values, "schema": 99}))
    refused(medattn("inspect", other), 5, "99", "pip install")


def test_an_artifact_without_a_manifest(medattn: Run, artifact: Path, scan: Path, tmp_path: Path) -> None:
    other = tmp_path / "n.onnx"
    shutil.copy(artifact, other)
    refused(medattn("infer", other, scan, "-o", tmp_path / "l.nii.gz"), 5, "n.onnx.json")


def test_a_device_that_is_not_there_is_no_fallback(medattn: Run, artifact: Path, scan: Path, tmp_path: Path) -> None:
    refused(medattn("infer", artifact, scan, "-o", tmp_path / "l.nii.gz", "--device", "cuda:7"), 3)
    refused(medattn("infer", artifact, scan, "-o", tmp_path / "l.nii.gz", "--device", "gpu"), 2)


def test_attention_of_an_artifact_that_has_none(medattn: Run, checkpoint: Path, scan: Path, tmp_path: Path) -> None:
    assert medattn("export", checkpoint, "-o", tmp_path / "n.torchscript").returncode == 0
    words = ["infer", tmp_path / "n.torchscript", scan, "-o", tmp_path / "l.nii.gz"]
    refused(medattn(*words, "--attention", tmp_path / "a.nii.gz"), 2, "--attention")


def test_a_full_disk_leaves_the_old_file(artifact: Path, scan: Path, tmp_path: Path) -> None:
    old = tmp_path / "labels.npz"
    old.write_bytes(b"the old file")

    def no_space() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))

    program = Path(sys.executable).with_name("medattn-edge")
    done = subprocess.run(
        [program, "infer", artifact, scan, "-o", old], capture_output=True, text=True, preexec_fn=no_space, check=False
    )
    refused(done, 3, "untouched")
    assert old.read_bytes() == b"the old file"
    assert list(tmp_path.iterdir()) == [old]


def test_errors_are_json_when_json_was_asked_for(medattn: Run, artifact: Path, tmp_path: Path) -> None:
    done = medattn("infer", artifact, tmp_path / "no.nii.gz", "-o", tmp_path / "l.nii.gz", "--json")
    assert done.returncode == 4
    error = json.loads(done.stdout)["error"]
    assert set(error) == {"code", "message", "hint"}
    usage = medattn("compare", artifact, "--json", "--min-dise", "1")
    assert usage.returncode == 2
    assert "--min-dice" in json.loads(usage.stdout)["error"]["message"]


def test_labels_that_are_not_the_scans(
    medattn: Run, checkpoint: Path, artifact: Path, scan: Path, tmp_path: Path
) -> None:
    labels = nifti(tmp_path / "labels.nii.gz", np.ones((9, 9, 9)))
    refused(medattn("compare", checkpoint, artifact, scan, "--labels", labels), 4, "grid")
    done = medattn(
        "compare", checkpoint, artifact, scan, "--labels", scan.with_name("truth.nii.gz"), "--label-value", "liver=1"
    )
    refused(done, 2, "liver")


def test_candidates_come_before_scans(medattn: Run, checkpoint: Path, artifact: Path, scan: Path) -> None:
    refused(medattn("compare", checkpoint, scan, artifact), 2)
    refused(medattn("compare", checkpoint, scan), 2)


def test_a_foreign_checkpoints_options_are_not_for_ours(medattn: Run, checkpoint: Path, tmp_path: Path) -> None:
    refused(medattn("export", checkpoint, "-o", tmp_path / "n.onnx", "--intensity", "zscore"), 2, "--intensity")
