"""demo on a host that only runs artifacts: a drawn chest, segmented by the shipped file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medattn_edge.artifact import Artifact, sha256
from medattn_edge.data import shipped_artifact, shipped_checkpoints
from medattn_edge.data.drawn_chest import SPACING, draw_chest, write_drawn_chest
from medattn_edge.installation import install_line

LEAN = ("torch", "onnx", "slicerio", "nrrd", "pydicom", "highdicom", "PIL", "matplotlib", "scipy", "openvino")


def demo(into: Path, *missing: str) -> subprocess.CompletedProcess[str]:
    """The command in a process in which these packages cannot be imported."""
    program = (
        f"import sys; sys.modules.update(dict.fromkeys({missing!r}))\n"
        f"from medattn_edge.cli import main; sys.argv = ['medattn-edge', 'demo', '-o', {str(into)!r}]; main()"
    )
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)


def test_without_torch_a_drawn_chest_is_segmented_and_what_more_there_is_is_said(tmp_path: Path) -> None:
    done = demo(tmp_path / "demo", *LEAN)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "torch and slicerio: not installed" in done.stdout
    assert "a drawn chest, of nobody" in done.stdout
    assert install_line("demo") in done.stdout
    found = np.asarray(nibabel.load(tmp_path / "demo" / "drawn-chest-labels.nii.gz").dataobj)
    _, drawn = draw_chest()
    for label in (1, 2):
        one, other = found == label, drawn == label
        assert 2 * (one & other).sum() / (one.sum() + other.sum()) > 0.98
    assert sorted(path.name for path in (tmp_path / "demo").iterdir()) == [
        "drawn-chest-labels.nii.gz",
        "drawn-chest.nii.gz",
    ]


@pytest.mark.parametrize("package", ["onnxruntime", "nibabel"])
def test_what_even_this_needs_is_named_with_its_line(package: str, tmp_path: Path) -> None:
    done = demo(tmp_path / "demo", *LEAN, package)
    assert done.returncode == 3, done.stdout + done.stderr
    assert f"'{package}' is not installed" in done.stderr
    assert "next: pip install" in done.stderr


def test_a_folder_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    (tmp_path / "demo" / "drawn-chest.nii.gz").mkdir(parents=True)
    done = demo(tmp_path / "demo", *LEAN)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "drawn-chest.nii.gz" in done.stderr


def test_the_drawing_is_the_same_every_time_and_its_header_says_where_it_lies(tmp_path: Path) -> None:
    labels = write_drawn_chest(tmp_path / "a.nii.gz")
    image = nibabel.load(tmp_path / "a.nii.gz")
    hu, again = draw_chest()
    np.testing.assert_array_equal(np.asarray(image.dataobj), hu)
    np.testing.assert_array_equal(labels, again)
    np.testing.assert_allclose(image.header.get_zooms(), SPACING, rtol=1e-6)
    assert nibabel.aff2axcodes(image.affine) == ("R", "A", "S")
    assert np.argwhere(labels == 1)[:, 0].mean() > 64, "the right lung lies to the right"


def test_the_shipped_artifact_is_of_the_shipped_checkpoint() -> None:
    artifact = Artifact.read(shipped_artifact())
    assert artifact.manifest.lineage[0] == sha256(shipped_checkpoints()["lungs-attention-unet-2d"])
    assert artifact.spec.labels == ("background", "right_lung", "left_lung")
    assert artifact.manifest.precision == "fp16"
