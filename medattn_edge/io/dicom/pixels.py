"""The voxels of slices: decoded one at a time, masked, rescaled, straight into the array that is returned."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from medattn_edge.io.dicom.decoder import AS_STORED, Decoder, DecodingError
from medattn_edge.io.dicom.files import DEFLATED, check_inflated, data_set_start, failures, quiet
from medattn_edge.io.dicom.planes import ImagePlane
from medattn_edge.io.dicom.reasons import RefusedSeries
from medattn_edge.io.dicom.storage import Storage
from medattn_edge.volume import Array

# Their numbers are physical after rescaling, and MONOCHROME1 is only how they like to be shown.
_PHYSICAL_UNITS = ("HU", "HU_MOD")

_PYTHON = "pydicom"  # the only decoder that is not C
DECODER = Decoder()


def read_planes(planes: Sequence[ImagePlane], modality: str) -> Array:
    """The voxels of slices; padding gets the lowest value of the rest.

    Returns:
        (D, H, W) in the order of the planes: int16 when every possible value fits, otherwise float32.

    Raises:
        RefusedSeries: for pixel data that cannot be decoded.
    """
    storage = planes[0].storage
    voxels = np.empty((len(planes), storage.rows, storage.columns), dtype=_type(planes, modality))
    padded: dict[int, Array] = {}
    lowest: float | None = None
    for path, run in groupby(enumerate(planes), key=lambda pair: pair[1].path):
        with closing(_decoded(path, list(run))) as slices:
            for (index, plane), stored in slices:
                padding = _padding(stored, plane.storage)
                values = _values(stored, plane, modality)
                voxels[index] = values
                real = voxels[index] if padding is None else voxels[index][~padding]
                if real.size:
                    lowest = float(real.min()) if lowest is None else min(lowest, float(real.min()))
                if padding is not None:
                    # An eighth of a byte for each voxel: the lowest value is known at the end.
                    padded[index] = np.packbits(padding)
    if lowest is not None:
        for index, bits in padded.items():
            mask = np.unpackbits(bits, count=voxels[index].size).astype(bool)
            voxels[index].reshape(-1)[mask] = lowest
    return voxels


def _type(planes: Sequence[ImagePlane], modality: str) -> Any:
    whole = all(float(number).is_integer() for plane in planes for number in (plane.slope, plane.intercept))
    ends = [end * plane.slope + plane.intercept for plane in planes for end in plane.storage.range]
    return np.int16 if whole and min(ends) >= -(1 << 15) and max(ends) < 1 << 15 else np.float32


def _decoded(path: Path, run: list[tuple[int, ImagePlane]]) -> Generator[tuple[tuple[int, ImagePlane], Array]]:
    """Each slice of one file with its stored words, as they are in the file."""
    storage = run[0][1].storage
    size = (storage.rows, storage.columns)
    with closing(_frames(path, storage, [plane.frame for _, plane in run])) as frames:
        for index, plane in run:
            try:
                # Around each slice and not around the loop: a generator would leave warnings off for its caller.
                with quiet():
                    words = next(frames)
            except RefusedSeries:
                raise
            except failures() as error:
                why = str(error) if isinstance(error, DecodingError) else type(error).__name__
                raise RefusedSeries("unreadable", f"slice {index + 1} cannot be decoded ({why})") from error
            if words.shape != size or words.dtype.kind not in "iu":
                raise RefusedSeries("unreadable", f"slice {index + 1} has {words.shape} pixels, the header says {size}")
            yield (index, plane), words


def _frames(path: Path, storage: Storage, wanted: list[int]) -> Generator[Array]:
    """Frames of a file in the wanted order, (rows, columns); what may go wrong is left to the caller."""
    import pydicom
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.pixels.utils import iter_pixels

    if storage.plugin not in ("", _PYTHON):
        yield from DECODER.frames(path, storage.plugin, wanted)
        return
    if storage.syntax != DEFLATED:
        # A data set without meta information has a transfer syntax only here.
        yield from iter_pixels(
            path, indices=wanted, decoding_plugin=storage.plugin, transfer_syntax_uid=storage.syntax, **AS_STORED
        )
        return
    with path.open("rb") as file:
        check_inflated(file, data_set_start(pydicom.filereader.read_file_meta_info(path)))
    dataset = pydicom.dcmread(path)
    needed = storage.frame_bytes * storage.frames
    if len(dataset.PixelData) < needed:
        raise RefusedSeries("truncated", f"{len(dataset.PixelData):,} bytes of pixel data where {needed:,} are needed")
    for index in wanted:
        yield get_decoder(storage.syntax).as_array(dataset, index=index, **AS_STORED)[0]


def _padding(stored: Array, storage: Storage) -> Array | None:
    """Where there is no value, None when everywhere is one."""
    if storage.padding is None:
        return None
    low, high = storage.padding
    mask: Array = (stored >= low) & (stored <= high)
    return mask if mask.any() else None


def _values(stored: Array, plane: ImagePlane, modality: str) -> Array:
    """Stored words to values: the stored bits with their sign, the polarity, the rescaling."""
    storage = plane.storage
    unused = 8 * stored.dtype.itemsize - storage.stored
    numbers = (stored << unused >> unused if unused else stored).astype(np.float64)
    physical = modality in ("CT", "PT") or plane.units in _PHYSICAL_UNITS
    if storage.photometric == "MONOCHROME1" and not physical:
        numbers = sum(storage.range) - numbers
    return np.asarray(numbers * plane.slope + plane.intercept)
