"""Several scans for one network, from the command line: in order, by name, from one file; a wrong one is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from medattn_edge.spec import ModelSpec
from tests.support.networks import randomised

Run = Callable[..., Any]
NAMES = ("t1", "t2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """t1.nii.gz, t2.nii.gz, both.nii.gz (4-D), far.nii.gz on another grid, and a checkpoint of two channels."""
    import torch

    from medattn_edge.models import build
    from medattn_edge.models.checkpoint import save

    path = tmp_path_factory.mktemp("channels")
    voxels = np.random.default_rng(0).normal(100, 30, (24, 20, 3, 2)).astype(np.float32)
    affine = np.diag([1.5, 1.5, 4, 1])
    for name, values, grid in (
        ("t1", voxels[..., 0], affine),
        ("t2", voxels[..., 1], affine),
        ("both", voxels, affine),
        ("far", voxels[:-1, ..., 1], affine @ np.diag([1.02, 1, 1, 1])),
    ):
        image = nibabel.Nifti1Image(values, grid)
        image.set_sform(grid, 1)
        nibabel.save(image, path / f"{name}.nii.gz")
    spec = ModelSpec(
        network="attention-unet-2d",
        in_channels=2,
        labels=("background", "tumour", "oedema"),
        patch=(16, 16),
        stride=(16, 16),
        config={"width": 4},
        channels=NAMES,
    )
    torch.manual_seed(3)
    network = randomised(build(spec))
    with torch.no_grad():  # no class wins everywhere
        network.head.bias -= network(torch.randn(8, 2, 16, 16) * 30 + 100).mean((0, 2, 3))
    save(path / "net.safetensors", network, spec, {})
    return path


@pytest.fixture(scope="module")
def net(folder: Path, medattn: Run) -> Path:
    done = medattn(
        *("export", folder / "net.safetensors", "-o", folder / "net.onnx", "--batch", "dynamic"),
        *("--scan", f"{folder / 't1.nii.gz'}+{folder / 't2.nii.gz'}"),
    )
    assert done.returncode == 0, done.stderr
    assert "t1=t1.nii.gz+t2=t2.nii.gz" in done.stdout
    return folder / "net.onnx"


def test_labels_are_the_same_however_the_channels_are_given(
    medattn: Run, net: Path, folder: Path, tmp_path: Path
) -> None:
    t1, t2, both = (folder / f"{name}.nii.gz" for name in ("t1", "t2", "both"))
    answers = {}
    for number, given in enumerate(([t1, t2], [f"t2={t2}", f"t1={t1}"], [f"{t1}+{t2}"], [both])):
        out = tmp_path / f"{number}.nii.gz"
        done = medattn("infer", net, *given, "-o", out)
        assert done.returncode == 0, done.stderr
        source = "volume 1 of both.nii.gz" if given == [both] else "t1.nii.gz"
        assert f"t1 <- {source}\n" in done.stdout
        answers[number] = np.asarray(nibabel.load(out).dataobj)
    assert len(np.unique(answers[0])) > 1
    assert all(np.array_equal(answers[0], labels) for labels in answers.values())


def test_scans_that_do_not_fit_together_are_refused_and_nothing_is_written(
    medattn: Run, net: Path, folder: Path, tmp_path: Path
) -> None:
    t1, t2, far = (folder / f"{name}.nii.gz" for name in ("t1", "t2", "far"))
    out = tmp_path / "labels.nii.gz"
    for given, code, words in (
        ([t1], 4, ("t1, t2", "t1=SCAN+t2=SCAN")),
        ([t1, t2, far], 2, ("3 scans", "t1, t2")),
        ([t2, t1], 2, ("would be the channel t1", f"t1={t1}+t2={t2}")),
        ([t1, far], 4, ("size", "spacing", "--resample-to-first")),
        ([t1, f"t2={t2}"], 2, ("a name for each",)),
        ([t1, folder / "no.nii.gz"], 4, ("no.nii.gz",)),
    ):
        done = medattn("infer", net, *given, "-o", out)
        assert done.returncode == code, (given, done.stderr)
        assert "next:" in done.stderr
        assert all(word in done.stderr for word in words), done.stderr
        assert list(tmp_path.iterdir()) == []


def test_another_grid_is_resampled_when_asked_for_and_that_is_told(
    medattn: Run, net: Path, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "labels.nii.gz"
    given = (folder / "t1.nii.gz", folder / "far.nii.gz", "-o", out, "--resample-to-first")
    done = medattn("infer", net, *given)
    assert done.returncode == 0, done.stderr
    assert "note: far.nii.gz was resampled linearly to the grid of t1.nii.gz" in done.stdout
    document = json.loads(medattn("infer", net, *given, "--json").stdout)
    assert document["channels"] == ["t1 <- t1.nii.gz", "t2 <- far.nii.gz"]
    assert any("resampled" in note for note in document["notes"])
    assert nibabel.load(out).shape == (24, 20, 3)


def test_compare_and_bench_take_channels_too(medattn: Run, net: Path, folder: Path) -> None:
    joined = f"{folder / 't1.nii.gz'}+{folder / 'far.nii.gz'}"
    checkpoint = folder / "net.safetensors"
    refused = medattn("compare", checkpoint, net, joined)
    assert refused.returncode == 4, refused.stderr
    done = medattn("compare", checkpoint, net, joined, "--resample-to-first")
    assert done.returncode == 0, done.stderr
    assert "t1=t1.nii.gz+t2=far.nii.gz, resampled to the first" in done.stdout
    words = ("bench", net, "--reference", checkpoint, "--scan", joined, "--duration", "0", "--warm-up", "0")
    assert medattn(*words).returncode == 4
    assert medattn("calibrate", net, joined, "-o", folder / "i.onnx", "--profile", "cpu").returncode == 4
