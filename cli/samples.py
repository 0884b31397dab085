"""Real input for a check: the scans that were given, or the CT that slicerio ships."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from medattn_edge.errors import MissingDependency

if TYPE_CHECKING:
    from medattn_edge.backends.session import Patches
    from medattn_edge.spec import ModelSpec


def real_patches(spec: ModelSpec, scans: list[Path], count: int) -> dict[str, Patches]:
    """Patches by file name. A sample scan of one channel is repeated for networks that want more."""
    import numpy as np

    from medattn_edge.data.samples import sample_scan
    from medattn_edge.inference import sample_patches
    from medattn_edge.io import read_volume

    if scans:
        return {path.name: sample_patches(read_volume(path), spec, count) for path in scans}
    try:
        path = sample_scan()
    except MissingDependency as error:
        raise MissingDependency(error.found, expected=error.expected, hint=f"--scan SCAN, or {error.hint}") from error
    volume = read_volume(path)
    if spec.in_channels > 1:
        volume = replace(volume, voxels=np.stack([volume.voxels] * spec.in_channels))
    return {path.name: sample_patches(volume, spec, count)}
