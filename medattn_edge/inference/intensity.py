"""Intensities as a network was trained on them."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from medattn_edge.errors import ScanError
from medattn_edge.inference.resample import Floats
from medattn_edge.spec import Intensity
from medattn_edge.volume import Array, Volume


def normalised(lps: Volume, intensity: Intensity) -> Iterator[tuple[int, int, Floats]]:
    """Channel, row and normalised voxels, float32 (H, W), of one plane after the other.

    Statistics are those of the original voxels, per channel. Raises ScanError for a scan without contrast, or with none
    inside the window.
    """
    per_slice = intensity.scope == "slice" and intensity.kind in ("zscore", "minmax")
    channels = lps.voxels[None] if lps.voxels.ndim == 3 else lps.voxels
    for channel, source in enumerate(channels):
        low, high = float(source.min()), float(source.max())
        if intensity.kind != "none":
            _check_contrast(low, high, intensity)
        whole = None if per_slice else _statistic(source, intensity)
        for row, plane in enumerate(source):
            offset, scale = whole or _statistic(plane[None], intensity)
            values = plane.astype(np.float64)  # double: a large offset must not cost the contrast its digits
            if intensity.kind == "window":
                np.clip(values, intensity.low, intensity.high, out=values)
            if scale > 0:
                values -= offset
                values /= scale
            else:
                values[...] = 0.0
            yield channel, row, values.astype(np.float32)


def _check_contrast(low: float, high: float, intensity: Intensity) -> None:
    if low == high:
        raise ScanError(
            f"every voxel of the scan is {low:g}",
            expected="a scan with contrast",
            hint="look whether the export is empty",
        )
    if intensity.kind == "window" and (high <= intensity.low or low >= intensity.high):
        raise ScanError(
            f"the scan's values {low:g}..{high:g} all lie outside the window {intensity.low:g}..{intensity.high:g}",
            expected="values inside the window, in HU for CT",
            hint="give a scan with its rescale slope and intercept applied",
        )


def _statistic(planes: Array, intensity: Intensity) -> tuple[float, float]:
    """What to subtract and what to divide by; 0 when there is nothing to divide by."""
    if intensity.kind == "window":
        return intensity.low, intensity.high - intensity.low
    if intensity.kind == "minmax":
        low = float(planes.min())
        return low, float(planes.max()) - low
    if intensity.kind == "zscore":
        if planes.min() == planes.max():
            return 0.0, 0.0  # rounding in the mean would leave a deviation that is noise
        mean = float(planes.mean(dtype=np.float64))
        # Plane by plane: np.std would hold the whole scan in double precision.
        return mean, math.sqrt(sum(float(((plane - mean) ** 2).sum()) for plane in map(_double, planes)) / planes.size)
    return 0.0, 1.0


def _double(plane: Array) -> npt.NDArray[np.float64]:
    return plane.astype(np.float64)
