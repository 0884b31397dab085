"""What is measured of a case: every label's volume, the scan's values in it, and its components."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from medattn_edge.inference import Segmentation
from medattn_edge.inference.cleanup import count_components
from medattn_edge.volume import Array, Volume


@dataclass(frozen=True)
class LabelMeasures:
    """One label, or region, of one case.

    Attributes:
        label: its name.
        voxels: how many it has.
        ml: the same as a volume, None where the scan has no millimetres.
        mean: of the scan's values in it (HU of a CT), of the first channel; None without a finite voxel.
        standard_deviation: of the same, of all its voxels (ddof 0).
        components: parts of it that touch nowhere, of 26 neighbours; None without scipy.
    """

    label: str
    voxels: int
    ml: float | None
    mean: float | None
    standard_deviation: float | None
    components: int | None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def measured(segmentation: Segmentation, scan: Volume) -> tuple[LabelMeasures, ...]:
    """The measures of every label but the background, or of every region.

    Args:
        segmentation: of the scan.
        scan: the scan's voxels (D, H, W), or (C, D, H, W), of which the first channel counts.
    """
    labels, meaning = segmentation.labels, segmentation.meaning
    values = scan.voxels if scan.voxels.ndim == 3 else scan.voxels[0]
    counted = find_spec("scipy") is not None
    rows = []
    for name, mask in meaning.masks(labels.voxels):
        voxels = int(np.count_nonzero(mask))
        mean, deviation = _moments(values[mask])
        rows.append(
            LabelMeasures(
                name,
                voxels,
                voxels * labels.voxel_ml if labels.calibrated else None,
                mean,
                deviation,
                count_components(mask) if counted else None,
            )
        )
    return tuple(rows)


def _moments(values: Array) -> tuple[float | None, float | None]:
    """Mean and standard deviation of the finite values, in float64; None where there are none."""
    finite = values if values.dtype.kind in "iu" else values[np.isfinite(values)]
    if not finite.size:
        return None, None
    return float(finite.mean(dtype=np.float64)), float(finite.std(dtype=np.float64))
