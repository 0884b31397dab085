"""Logits from the network's grid back onto the scan's, row by row."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np

from medattn_edge.inference.preprocess import Prepared
from medattn_edge.inference.resample import Floats, between, resample
from medattn_edge.inference.sliding_window import Slab


def restore(stream: Iterable[Slab], prepared: Prepared) -> Iterator[Slab]:
    """The slabs of prepared.image as slabs of the scan's LPS grid, axes still in the network's order.

    Logits, not labels, are interpolated (linearly), so that a boundary lies where two interpolated logits are equal;
    nnU-Net does the same. Nothing changes when nothing was resampled. Memory: three rows of (K + A) x plane.
    """
    back = prepared.way_back
    if not back:
        yield from stream
        return
    rows = _rows(stream)
    along = back.pop(0, np.arange(prepared.image.shape[1], dtype=np.float64))
    plane = {1 + axis: where for axis, where in back.items()}
    (classes, above), index = next(rows), 0
    below = above
    for start, position in enumerate(along):
        low, high = math.floor(position), math.ceil(position)
        while index < high:  # positions never fall, so two rows are all that must be kept
            below, (classes, above), index = above, next(rows), index + 1
        row = above if low == high else between(below, above.copy(), np.float32(position - low))
        # Rows first, the plane after: the rows that wait are then the network's, usually the smaller ones.
        row = resample(row, plane)
        yield Slab(start, row[:classes], row[classes:] if row.shape[0] > classes else None)
    for _ in rows:  # the network's last rows may lie outside the scan; progress must still arrive at its end
        pass


def _rows(stream: Iterable[Slab]) -> Iterator[tuple[int, Floats]]:
    """K, and one row (K + A, 1, ...) after the other."""
    for slab in stream:
        maps = slab.logits if slab.attention is None else np.concatenate([slab.logits, slab.attention])
        for index in range(maps.shape[1]):
            yield slab.logits.shape[0], maps[:, index : index + 1]
