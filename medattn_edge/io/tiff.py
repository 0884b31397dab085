"""TIFF stacks, through tifffile: slices without millimetres, because TIFF has no place for the side of a patient."""

from __future__ import annotations

import lzma
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from medattn_edge.errors import ScanError
from medattn_edge.io.bounds import check_size
from medattn_edge.io.format import PICTURE_AFFINE, Format, unreadable
from medattn_edge.volume import Array, Volume

# What tifffile raises for damaged files, beside its own error.
_FAILURES = (
    *(OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, MemoryError, ArithmeticError),
    *(RuntimeError, AssertionError, struct.error, zlib.error, lzma.LZMAError),
)
_DEFLATE, _LZMA = (8, 32946, 50013), (34925,)  # whose data can grow a thousandfold, or without bounds
# tifffile's letters: depth, or pages that nothing is said of; channels, or the samples of a colour.
_DEPTH, _CHANNELS = "ZIQ", "CS"
_LZMA_MEMORY = 1 << 27  # bytes; the strongest setting of its own tool needs half of that


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
            check_size(path, series[0].shape, series[0].dtype.itemsize)
            for page in series[0].pages:
                _check_packed(path, file.filehandle, page)
            stored: Array = series[0].asarray()
    except (*_FAILURES, tifffile.TiffFileError) as error:
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


def _check_packed(path: Path, file: Any, page: Any) -> None:
    """Refuse strips and tiles that become more than their share of the page: tifffile would inflate all of them."""
    if page is None or page.compression not in (*_DEFLATE, *_LZMA):
        return
    most = math.prod(page.chunks) * page.dtype.itemsize
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        file.seek(offset)
        unpack = lzma.LZMADecompressor(memlimit=_LZMA_MEMORY) if page.compression in _LZMA else zlib.decompressobj()
        if len(unpack.decompress(file.read(count), most + 1)) > most:
            raise ScanError(
                f"{path} has a strip or tile that becomes more than {most:,} bytes",
                expected="as many voxels as its header promises",
                hint="export the scan again",
            )


FORMAT = Format("tiff", (".tif", ".tiff"), "tiff", ("tifffile",), read, None, None)
