"""A folder of scans, and a small real network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.scans import write_nifti
from tests.support.sessions import make_volume


def scan(path: Path, seed: int, depth: int = 3) -> Path:
    """A scan of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.random.default_rng(seed).random((depth, 40, 36)).astype(np.float32)
    return write_nifti(path, make_volume(voxels, (4.0, 1.5, 1.25)))


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """A folder with two scans, one of them below another folder."""
    scan(tmp_path / "scans" / "a.nii.gz", 1)
    scan(tmp_path / "scans" / "deep" / "b.nii", 2)
    return tmp_path / "scans"
