"""export --expect-scan: an owner's labels of a scan decide how scans come in, or nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from medattn_edge.artifact import Artifact
from medattn_edge.io import read_labels, write_labels
from medattn_edge.volume import Volume

Run = Callable[..., Any]
NAMES = ("background", "class_1", "class_2")


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Weights of MONAI's, a scan, and the labels of an owner whose network sees axial RAS slices, W first."""
    nets, nibabel = pytest.importorskip("monai.networks.nets"), pytest.importorskip("nibabel")
    folder = tmp_path_factory.mktemp("owner")
    torch.manual_seed(4)
    network = nets.AttentionUnet(2, 1, 3, (4, 8), (2, 2)).eval()
    rng = np.random.default_rng(5)
    array = rng.normal(0, 200, (32, 32, 6))  # i, j, k, to the right, the front and the head
    array = ((array + np.roll(array, 1, 0) + np.roll(array, 1, 1)) + np.linspace(-80, 80, 32)[:, None, None]).round()
    array[:9] = 0
    nibabel.save(nibabel.Nifti1Image(array.astype(np.int16), np.diag([1.5, 1.5, 3, 1])), folder / "scan.nii.gz")
    image = torch.from_numpy((array - array.mean()) / array.std()).float().movedim(2, 0)[:, None]
    with torch.inference_mode():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.2, 0.2)
        head = [value for value in network.parameters() if value.shape == (3,)][-1]
        head -= network(image).mean((0, 2, 3))
        labels = network(image).argmax(1).movedim(0, 2).numpy().astype(np.uint8)
    torch.save(network.state_dict(), folder / "net.pth")
    nibabel.save(nibabel.Nifti1Image(labels, np.diag([1.5, 1.5, 3, 1])), folder / "labels.nii.gz")
    return folder / "net.pth", folder / "scan.nii.gz", folder / "labels.nii.gz"


def test_infer_then_gives_the_owners_labels(medattn: Run, owner: Any, tmp_path: Path) -> None:
    path, scan, labels = owner
    output = tmp_path / "net.torchscript"
    words = ("--patch", "32x32", "--intensity", "zscore", "--expect-scan", scan, labels)
    done = medattn("export", path, "-o", output, *words)
    assert done.returncode == 0, done.stderr
    assert "gives labels.nii.gz" in done.stderr
    assert "runner-up:" in done.stderr
    assert "--orientation  " not in done.stderr  # proven, so assumed no more
    reading = Artifact.read(output).manifest.reading
    assert reading["scan_expectation"]["winner"]["label_match"] == 1.0
    assert "--spacing" in reading["spec_assumptions"]
    assert "labels.nii.gz: minimum Dice 1.0000" in medattn("inspect", output).stdout
    assert medattn("infer", output, scan, "-o", tmp_path / "ours.nii.gz").returncode == 0
    assert np.array_equal(read_labels(tmp_path / "ours.nii.gz").voxels, read_labels(labels).voxels)


def test_nothing_is_written_for_a_result_that_does_not_fit(medattn: Run, owner: Any, tmp_path: Path) -> None:
    path, scan, labels = owner
    output = tmp_path / "net.torchscript"
    words = ("export", path, "-o", output, "--patch", "32x32", "--intensity", "zscore", "--axes", "WH")
    other = read_labels(labels)
    elsewhere = np.array(other.affine)
    elsewhere[:3, 3] += 9
    write_labels(tmp_path / "moved.nii.gz", Volume(other.voxels, elsewhere), NAMES)
    moved = medattn(*words, "--expect-scan", scan, tmp_path / "moved.nii.gz")
    assert moved.returncode == 4, moved.stderr
    write_labels(tmp_path / "more.nii.gz", other.with_voxels(other.voxels + 7), NAMES)
    assert medattn(*words, "--expect-scan", scan, tmp_path / "more.nii.gz").returncode == 4
    write_labels(tmp_path / "empty.nii.gz", other.with_voxels(other.voxels * 0), NAMES)
    assert medattn(*words, "--expect-scan", scan, tmp_path / "empty.nii.gz").returncode == 4
    wrong = medattn(*words, "--expect-scan", scan, labels, "--orientation", "LPS")
    assert wrong.returncode == 1
    assert "nearest is --orientation LPS" in wrong.stderr
    assert medattn(*words, "--expect-scan", scan, labels, "--expect-scan-limit", "soon").returncode == 2
    short = medattn(*words, "--expect-scan", scan, labels, "--expect-scan-limit", "2")
    assert short.returncode == 1
    assert not output.exists()


def test_our_own_checkpoints_are_not_searched(medattn: Run, checkpoint: Path, owner: Any, tmp_path: Path) -> None:
    done = medattn("export", checkpoint, "-o", tmp_path / "net.torchscript", "--expect-scan", *owner[1:])
    assert done.returncode == 2
    assert "carries its own spec" in done.stderr
