"""Slices as the geometry of a series sees them, without files and pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medattn_edge.io.dicom.planes import ImagePlane
from medattn_edge.io.dicom.storage import Storage
from medattn_edge.volume import Array

STORAGE = Storage("1.2.840.10008.1.2.1", False, 40, 36, 1, 16, 16, True, "MONOCHROME2", None, "")


def planes(affine: Array, heights: list[float]) -> list[ImagePlane]:
    """Slices of an affine at heights, counted in its own steps."""
    _, down, right = affine[:3, :3].T
    spacing = float(np.linalg.norm(down)), float(np.linalg.norm(right))
    return [
        ImagePlane(
            Path(f"{number}"),
            0,
            f"1.2.{number}",
            tuple(affine[:3, 3] + height * affine[:3, 0]),
            tuple(right / spacing[1]),
            tuple(down / spacing[0]),
            spacing,
            1.0,
            0.0,
            "HU",
            (("EchoTime", "1"),),
            (),
            STORAGE,
        )
        for number, height in enumerate(heights)
    ]
