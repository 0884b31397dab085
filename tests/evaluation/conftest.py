"""A network of one line of numpy and scans to show it; and a small real one, as a checkpoint and as an artifact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from medattn_edge.exporters import ExportSettings, export_fp32, random_patches
from medattn_edge.models import build
from medattn_edge.models import checkpoint as checkpoints
from medattn_edge.rewrites import rewrite
from medattn_edge.spec import ModelSpec
from tests.support.session_fixtures import fake, network, spec_of, volume_of

__all__ = ["fake", "network", "spec_of", "volume_of"]

SPEC = ModelSpec(
    "attention-unet-monai",
    1,
    ("background", "organ"),
    (32, 32),
    (4, 4),
    config={"dims": 2, "channels": [4, 8, 16]},
)


@pytest.fixture(scope="session")
def checkpoint(randomised: Callable[[Any], Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(2)
    path = tmp_path_factory.mktemp("measured") / "net.safetensors"
    network = randomised(build(SPEC))
    with torch.no_grad():  # no class wins everywhere
        list(network.parameters())[-1].sub_(network(torch.rand(4, 1, 32, 32)).mean((0, 2, 3)))
    checkpoints.save(path, network, SPEC)
    return path


@pytest.fixture(scope="session")
def artifact(checkpoint: Path) -> Path:
    path = checkpoint.with_name("net.onnx")
    real = {"random": random_patches(SPEC, 1)}
    export_fp32(rewrite(checkpoints.load(checkpoint), ()), path, real, settings=ExportSettings(batch=None))
    return path
