"""A small foreground-finding network and scans for it, to be deployed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medattn_edge.deploy import DeployInputs, DeployRecipe, DeploySource
from medattn_edge.io import as_scan
from medattn_edge.volume import Volume
from tests.support.networks import gated_spec, save_checkpoint
from tests.support.scans import write_nifti

AFFINE = np.array([[0, 0, -2.5, 60], [0, 2.5, 0, -40], [8.0, 0, 0, 5], [0, 0, 0, 1]])


@pytest.fixture(scope="session")
def deployable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with net.safetensors and three scans, whose names are those of nobody else."""
    folder = tmp_path_factory.mktemp("deployable")
    save_checkpoint(folder / "net.safetensors", gated_spec(), balanced=True)
    for number in range(3):
        voxels = np.random.default_rng(number).random((4, 40, 44)).astype(np.float32)
        write_nifti(folder / f"Doe-Jane-{number}.nii.gz", Volume(voxels, AFFINE))
    return folder


@pytest.fixture
def inputs_of(deployable: Path) -> Callable[..., DeployInputs]:
    """The inputs of `deployable`, with some of its scans; more is given to `DeployInputs.of`."""
    from medattn_edge.models.checkpoint import load

    path = deployable / "net.safetensors"

    def inputs(numbers: tuple[int, ...] = (0, 1), **more: object) -> DeployInputs:
        scans = [as_scan(deployable / f"Doe-Jane-{number}.nii.gz") for number in numbers]
        return DeployInputs.of(DeploySource(path, load(path)), scans, **more)  # type: ignore[arg-type]

    return inputs


QUICK = DeployRecipe(
    candidates=("fp32.onnx",),
    batch=1,
    overlap=0.5,
    threads=1,
    run_threads=1,
    duration_s=0.1,
    samples=4,
    held_out_samples=4,
    max_trials=1,
    report=False,
)
