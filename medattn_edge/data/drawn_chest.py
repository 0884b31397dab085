"""A chest that is drawn, of nobody: something to segment where no package with a real scan is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medattn_edge.errors import MissingDependency

SPACING = (3.05, 3.05, 10.0)  # mm, of i, j, k: near that of the scan that the shipped networks learnt from
_SHAPE = (128, 128, 12)
_AIR, _FAT, _TISSUE, _LUNG, _BONE = -1000, -100, 40, -850, 300  # HU
_NOISE = 25  # HU, standard deviation


def draw_chest() -> tuple[npt.NDArray[np.int16], npt.NDArray[np.uint8]]:
    """HU and labels (1 right lung, 2 left lung), both (i, j, k) in RAS; the same ones every time."""
    axes = [(np.arange(size) - (size - 1) / 2) * step for size, step in zip(_SHAPE, SPACING, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij")  # mm from the middle: to the right, to the front, up

    def ellipsoid(middle: tuple[float, float], radii: tuple[float, float, float]) -> npt.NDArray[np.bool_]:
        inside: npt.NDArray[np.bool_] = ((x - middle[0]) / radii[0]) ** 2 + ((y - middle[1]) / radii[1]) ** 2 + (
            z / radii[2]
        ) ** 2 < 1
        return inside

    long = 1e6
    heart = ellipsoid((-25, 25), (45, 40, 60))
    hu, labels = np.full(_SHAPE, _AIR, np.float64), np.zeros(_SHAPE, np.uint8)
    hu[ellipsoid((0, 0), (165, 115, long))] = _FAT
    hu[ellipsoid((0, 0), (155, 105, long))] = _TISSUE
    for label, side in ((1, 75.0), (2, -75.0)):
        lung = ellipsoid((side, -5), (52, 78, 75)) & ~heart
        hu[lung], labels[lung] = _LUNG, label
    hu[ellipsoid((0, -75), (18, 18, long))] = _BONE
    hu += np.random.default_rng(0).normal(0, _NOISE, _SHAPE)
    return hu.astype(np.int16), labels


def write_drawn_chest(path: Path) -> npt.NDArray[np.uint8]:
    """Write the scan as NIfTI, and return its labels as `draw_chest` does.

    Raises:
        MissingDependency: when nibabel is not installed.
        OSError: it cannot be written.
    """
    try:
        import nibabel
    except ImportError as error:
        raise MissingDependency.of_extra("nibabel", "nifti") from error
    hu, labels = draw_chest()
    image: Any = nibabel.Nifti1Image(hu, np.diag([*SPACING, 1.0]))  # type: ignore[no-untyped-call]
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
    return labels
