"""A network of one line of numpy and scans to show it; and a small real one, as a checkpoint and as an artifact."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.networks import export_checkpoint, save_checkpoint
from tests.support.session_fixtures import fake, network, spec_of, volume_of

__all__ = ["fake", "network", "spec_of", "volume_of"]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small network's file, in a folder that tests write into."""
    return save_checkpoint(tmp_path_factory.mktemp("measured") / "net.safetensors", balanced=True)


@pytest.fixture(scope="session")
def artifact(checkpoint: Path) -> Path:
    """Its ONNX file, for any batch."""
    return export_checkpoint(checkpoint, checkpoint.with_name("net.onnx")).path
