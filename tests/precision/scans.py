"""Small scans with a bright box, and a session of one line that finds it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from medattn_edge.precision.windows import ScanSource, TiledScan, Windows
from medattn_edge.spec import ModelSpec
from medattn_edge.volume import Volume
from tests.support.sessions import FakeSession

LPS = np.eye(4)[[2, 1, 0, 3]]  # D towards the head, H to the back, W to the left
SPEC = ModelSpec("attention-unet-2d", 1, ("background", "organ"), (16, 16), (16, 16), config={"width": 4})
DEEP = replace(SPEC, network="attention-unet-3d", patch=(16, 16, 16), stride=(16, 16, 16), axes="DHW")


def brighter_than(level: float, spec: ModelSpec = SPEC, batch: int | None = None) -> FakeSession:
    """Foreground is what is brighter than a level."""
    at = np.float32(level)
    return FakeSession(spec, lambda patches: np.concatenate([at - patches[:, :1], patches[:, :1] - at], axis=1), batch)


def scan(shape: tuple[int, ...] = (12, 32, 24), seed: int = 0, name: str = "scan") -> ScanSource:
    """Noise up to 0.4 with a box of 1 in the lower half of its slices, and that box as its true labels."""
    voxels = np.random.default_rng(seed).random(shape).astype(np.float32) * 0.4
    voxels[: shape[0] // 2, 4:9, 4:9] = 1
    labels = (voxels > 0.5).astype(np.uint8)
    return ScanSource(name, lambda: Volume(voxels, LPS), lambda volume: volume.with_voxels(labels))


def every_window(source: ScanSource, spec: ModelSpec = SPEC) -> Windows:
    """All windows of a scan."""
    tiled = TiledScan(source, spec)
    return Windows(tiled.cut(tiled.tiling.windows))
