"""TIFF stacks, through tifffile: slices without millimetres, because TIFF has no place for the side of a patient."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from medattn_edge.errors import ScanError
from medattn_edge.io.format import PICTURE_AFFINE, Format, unreadable
from medattn_edge.volume import Array, Volume

_FAILURES = (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, MemoryError, ArithmeticError)
# tifffile's letters: depth, or pages that nothing is said of; channels, or the samples of a colour.
_DEPTH, _CHANNELS = "ZIQ", "CS"


def read(path: Path) -> Volume:
    """Pages as slices (D, H, W) in pixels; channels of an ImageJ or OME stack, or colours, as (C, D, H, W).

    The file's own spacing, where it has one, is not used: `--pixel-spacing ZxYxX` says it.

    Raises:
        ScanError: for time points, for several images in one file, and for what cannot be read.
    """
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            series: Any = file.series
            axes = str(series[0].axes) if series else ""
            _check(path, len(series), axes, series[0].shape if series else ())
            stored: Array = series[0].asarray()
    except (*_FAILURES, tifffile.TiffFileError, struct.error, zlib.error) as error:
        raise unreadable(path, "TIFF", error) from error
    order = [axes.index(axis) for kind in (_CHANNELS, _DEPTH, "Y", "X") for axis in axes if axis in kind]
    voxels = stored.transpose(order)
    if not set(axes) & set(_DEPTH):
        voxels = np.expand_dims(voxels, -3)
    return Volume(np.ascontiguousarray(voxels), PICTURE_AFFINE, calibrated=False)


def _check(path: Path, images: int, axes: str, shape: tuple[int, ...]) -> None:
    known = all(sum(axis in kind for axis in axes) <= 1 for kind in (_CHANNELS, _DEPTH))
    if images != 1 or not known or not set("YX") <= set(axes) or set(axes) - set(_DEPTH + _CHANNELS + "YX"):
        raise ScanError(
            f"{path} has {images} image(s), the first of shape {tuple(shape)} with the axes {axes or 'none'}",
            expected="one stack of slices (Z, Y, X), with channels at most",
            hint="save one time point and one resolution as a stack of slices",
        )


FORMAT = Format("tiff", (".tif", ".tiff"), "tiff", ("tifffile",), read, None, None)
