"""A shipped network as an FP32 artifact: what INT8 loses of a network that never learnt anything says nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from medattn_edge.artifact import Artifact
from medattn_edge.backends.onnxruntime import OnnxRuntimeSession
from medattn_edge.backends.session import Options
from medattn_edge.data import shipped_checkpoints
from medattn_edge.data.samples import sample_scan
from medattn_edge.exporters import export_fp32, random_patches
from medattn_edge.models import checkpoint as checkpoints
from medattn_edge.precision.choice import choose_windows
from medattn_edge.precision.windows import ScanSource, Windows
from medattn_edge.rewrites import rewrite


def exported(name: str, folder: Path) -> Artifact:
    loaded = checkpoints.load(shipped_checkpoints()[name])
    samples = {"random": random_patches(loaded.spec, 1)}
    return export_fp32(rewrite(loaded, ("batch-norm",)), folder / f"{name}.onnx", samples)


@pytest.fixture(scope="session")
def lungs(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The shipped 2-D Attention U-Net in FP32 ONNX."""
    return exported("lungs-attention-unet-2d", tmp_path_factory.mktemp("lungs"))


@pytest.fixture(scope="session")
def guided(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The shipped self-guided network in FP32 ONNX."""
    return exported("lungs-self-guided", tmp_path_factory.mktemp("guided"))


@pytest.fixture(scope="session")
def chest() -> ScanSource:
    """The packaged chest CT."""
    return ScanSource.of(sample_scan())


@pytest.fixture(scope="session")
def halves(lungs: Artifact, chest: ScanSource) -> tuple[Windows, Windows]:
    """Eight windows of it to calibrate on and six to judge on."""
    with OnnxRuntimeSession(lungs, Options(threads=1)) as session:
        return choose_windows([chest], [], session, (8, 6))


@pytest.fixture(scope="session")
def lungs_model(lungs: Artifact) -> Any:
    """Its ModelProto."""
    import onnx

    return onnx.load(str(lungs.path))
