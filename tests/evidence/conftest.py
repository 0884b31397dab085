"""A small network as a checkpoint and as an artifact, and two scans whose files are named after patients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.networks import export_checkpoint, save_checkpoint
from tests.support.scans import write_nifti
from tests.support.sessions import make_volume


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small network's file."""
    return save_checkpoint(tmp_path_factory.mktemp("evidence") / "net.safetensors", balanced=True)


@pytest.fixture(scope="session")
def artifact(checkpoint: Path) -> Path:
    """Its ONNX file, which answers its maps."""
    return export_checkpoint(checkpoint, checkpoint.with_name("net.onnx"), attention=True).path


@pytest.fixture(scope="session")
def scans(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two scans of other sizes."""
    folder = tmp_path_factory.mktemp("scans")
    paths = []
    for number, (name, depth) in enumerate((("Doe_Jane", 4), ("Roe_Richard", 3))):
        voxels = np.random.default_rng(number).random((depth, 40, 36)).astype(np.float32)
        paths.append(write_nifti(folder / f"{name}.nii.gz", make_volume(voxels, (5.0, 1.5, 1.5))))
    return paths
