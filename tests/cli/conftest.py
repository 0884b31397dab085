"""The installed command, and small files to give it."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from medattn_edge.cli import main
from medattn_edge.io import write_labels
from medattn_edge.spec import Intensity, ModelSpec
from medattn_edge.volume import Volume
from tests.support.networks import random_network
from tests.support.scans import write_nifti


class Done(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Done]


@pytest.fixture(scope="session")
def medattn() -> Run:
    """Runs `medattn-edge` with the words given, in this process: a bug's traceback is the test's own."""

    def run(*words: Any) -> Done:
        with pytest.MonkeyPatch.context() as patch, io.StringIO() as out, io.StringIO() as err:
            patch.setenv("COLUMNS", "200")
            patch.setattr(sys, "argv", ["medattn-edge", *map(str, words)])
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as left:
                main()
            assert isinstance(left.value.code, int)
            return Done(left.value.code, out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small 2-D Attention U-Net with statistics away from their start; two organs by chance."""
    from medattn_edge.models.checkpoint import save

    spec = ModelSpec(
        network="attention-unet-2d",
        in_channels=1,
        labels=("background", "right_lung", "left_lung"),
        patch=(32, 32),
        stride=(16, 16),
        spacing=(3.0, 3.0),
        intensity=Intensity.window(-1000.0, 400.0),
        config={"width": 4},
    )
    path = tmp_path_factory.mktemp("checkpoint") / "small.safetensors"
    save(path, random_network(spec, 3, balanced=True), spec, {"command": "made for a test"})
    return path


@pytest.fixture(scope="session")
def artifact(checkpoint: Path, medattn: Run) -> Path:
    """Its ONNX artifact with attention maps."""
    path = checkpoint.with_name("small.onnx")
    done = medattn("export", checkpoint, "-o", path, "--batch", "dynamic", "--attention")
    assert done.returncode == 0, done.stderr
    return path


@pytest.fixture(scope="session")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A NIfTI of HU-like values, 5 x 40 x 48, oblique spacing, stored from right to left."""
    rng = np.random.default_rng(11)
    voxels = (rng.random((5, 40, 48)) * 1400 - 1000).astype(np.float32)
    affine = np.array([[0, 0, -2.5, 60], [0, 2.5, 0, -40], [8.0, 0, 0, 5], [0, 0, 0, 1]])
    path = tmp_path_factory.mktemp("scan") / "scan.nii.gz"
    write_labels(path.with_name("truth.nii.gz"), Volume((voxels > 0).astype(np.uint8), affine), ("background", "x"))
    return write_nifti(path, Volume(voxels, affine))
