"""inspect shows a scan as it lies in its file: grid, side of the patient, type and values."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

from medattn_edge.volume import Volume

Run = Callable[..., Any]
CODES = ["".join(c) for letters in itertools.product("LR", "PA", "SI") for c in itertools.permutations(letters)]


def save(path: Path, voxels: Any, affine: Any) -> Path:
    image = nibabel.Nifti1Image(voxels, affine)
    image.set_sform(affine, 1)
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("code", CODES)
def test_the_orientation_is_the_one_that_nibabel_says(code: str) -> None:
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]
    plain = np.diag([-1, -1, 1, 1]) @ nibabel.orientations.inv_ornt_aff(
        nibabel.orientations.axcodes2ornt(code), (4, 5, 6)
    )
    ras = turn @ np.diag([-1.0, -1, 1, 1]) @ plain
    volume = Volume(np.zeros((6, 5, 4)), (np.diag([-1.0, -1, 1, 1]) @ ras)[:, [2, 1, 0, 3]])
    assert volume.orientation == "".join(nibabel.aff2axcodes(ras))
    assert volume.oblique_degrees == pytest.approx(np.degrees(0.3))
    assert volume.oriented(volume.orientation).voxels.strides == volume.voxels.strides


def test_a_scan_is_shown_with_its_grid_and_its_values(medattn: Run, tmp_path: Path) -> None:
    voxels = np.arange(-60, 60, dtype=np.int16).reshape(4, 5, 6)
    path = save(tmp_path / "scan.nii.gz", voxels, np.diag([0.7, 0.8, 2.5, 1]))
    done = medattn("inspect", path)
    assert done.returncode == 0, done.stderr
    for words in ("6x5x4", "2.5x0.8x0.7 mm", "RAS: where", "int16, -60 to 59"):
        assert words in done.stdout
    assert "oblique" not in done.stdout
    facts = json.loads(medattn("inspect", path, "--json").stdout)
    assert facts == {
        "scan": str(path),
        "name": "scan.nii.gz",
        "format": "nifti",
        "channels": 1,
        "shape": [6, 5, 4],
        "spacing_mm": [2.5, 0.8, 0.7],
        "orientation": "RAS",
        "oblique_degrees": 0.0,
        "origin_mm": [0.0, 0.0, 0.0],
        "type": "int16",
        "minimum": -60,
        "maximum": 59,
        "not_finite": 0,
        "geometry": {"geometry": "sform", "codes": {"sform": 1, "qform": 0}, "apart_mm": None},
        "notes": [],
    }


def test_what_is_not_finite_and_what_has_no_place_is_said(medattn: Run, tmp_path: Path) -> None:
    voxels = np.full((4, 5, 6), 3.5, np.float32)
    voxels[0, 0, :2] = np.nan, np.inf
    assert "3.5 to 3.5, 2 not finite" in medattn("inspect", save(tmp_path / "a.nii", voxels, np.eye(4))).stdout
    Image.fromarray(np.zeros((7, 9), np.uint8)).save(tmp_path / "a.png")
    done = medattn("inspect", tmp_path / "a.png")
    assert "1x7x9" in done.stdout
    assert "--pixel-spacing" in done.stdout
    assert json.loads(medattn("inspect", tmp_path / "a.png", "--json").stdout)["orientation"] is None


def test_a_scan_that_cannot_be_read_is_an_error_of_the_scan(medattn: Run, tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_bytes(b"no scan")
    for name in ("a.nii.gz", "missing.nrrd"):
        done = medattn("inspect", tmp_path / name)
        assert done.returncode == 4
        assert name in done.stderr
        assert "next:" in done.stderr
