"""Logits from the network's grid back onto the scan's, row by row: all of them, or no more than the labels need."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable
from contextlib import closing
from typing import Any

import numpy as np
import numpy.typing as npt

from medattn_edge.inference.open_rows import Slab
from medattn_edge.inference.preprocess import Prepared
from medattn_edge.inference.resample import Floats, Positions, between, by_ratio, resample
from medattn_edge.inference.tiling import EVERY_CHANNEL
from medattn_edge.labels import Meaning

Labels = npt.NDArray[Any]
Indices = npt.NDArray[np.intp]


def restore(stream: Iterable[Slab], prepared: Prepared) -> Generator[Slab, None, None]:
    """The slabs of prepared.image as slabs of the scan's LPS grid, axes still in the network's order.

    Logits, not labels, are interpolated (linearly), so that a boundary lies where two interpolated logits are equal;
    nnU-Net does the same. Nothing changes when nothing was resampled. Memory: three rows of (K + A) x plane.
    """
    back = prepared.way_back
    if not back:
        yield from stream
        return
    plane = {1 + axis: where for axis, where in back.items() if axis}
    for start, classes, row in _planes(stream, prepared, back):
        # Rows first, the plane after: the rows that wait are then the network's, usually the smaller ones.
        row = resample(row, plane)
        yield Slab(start, row[:classes], row[classes:] if row.shape[0] > classes else None)


def labelled(
    stream: Iterable[Slab], prepared: Prepared, meaning: Meaning
) -> Generator[tuple[Slab, Labels], None, None]:
    """The labels (d, ...) of what `restore` gives, and the rows that they were made from.

    The rows are in the plane still on the network's grid, with their start on the scan's. Where the voxels around a
    point have one label, or lie in the same regions, so does the point: its logits are weighted means of theirs. Only
    at the others are logits interpolated, which is a few in a hundred.
    """
    back = prepared.way_back
    if not back:
        for slab in stream:
            yield slab, meaning.labels_of(slab.logits)
        return
    grid = _Plane({axis - 1: where for axis, where in back.items() if axis}, prepared.image.shape[2:], meaning)
    for start, classes, row in _planes(stream, prepared, back):
        yield Slab(start, row[:classes]), grid.labels(row[:classes, 0])[None]


def _planes(
    stream: Iterable[Slab], prepared: Prepared, back: dict[int, Positions]
) -> Generator[tuple[int, int, Floats], None, None]:
    """For each row of the scan its index, K, and the row (K + A, 1, ...), in the plane still on the network's grid."""
    along = back.get(0, np.arange(prepared.image.shape[1], dtype=np.float64))
    with closing(_rows(stream)) as rows:
        (classes, above), index = next(rows), 0
        below = above
        for start, position in enumerate(along):
            low, high = math.floor(position), math.ceil(position)
            while index < high:  # positions never fall, so two rows are all that must be kept
                below, (classes, above), index = above, next(rows), index + 1
            row = above if low == high else between(below, above.copy(), np.float32(position - low))
            yield start, classes, row
        for _ in rows:  # the network's last rows may lie outside the scan; progress must still arrive at its end
            pass


def _rows(stream: Iterable[Slab]) -> Generator[tuple[int, Floats], None, None]:
    """K, and one row (K + A, 1, ...) after the other."""
    for slab in stream:
        maps = slab.logits if slab.attention is None else np.concatenate([slab.logits, slab.attention])
        for index in range(maps.shape[1]):
            yield slab.logits.shape[0], maps[:, index : index + 1]


class _Plane:
    """A plane of the scan over a plane of the network, whose two axes lie at `back` where they were resampled."""

    def __init__(self, back: dict[int, Positions], shape: tuple[int, ...], meaning: Meaning) -> None:
        self._meaning = meaning
        where = {axis: back.get(axis, np.arange(shape[axis], dtype=np.float64)) for axis in (0, 1)}
        self._order = by_ratio({axis: where[axis] for axis in back}, shape)
        self._low = {axis: at.astype(np.intp) for axis, at in where.items()}
        self._high = {axis: np.minimum(self._low[axis] + 1, shape[axis] - 1) for axis in where}
        self._weight = {axis: (at - self._low[axis]).astype(np.float32) for axis, at in where.items()}

    def labels(self, logits: Floats) -> Labels:
        """Labels (H, W) of the scan's plane from logits (K, h, w)."""
        coarse = self._meaning.labels_of(logits)
        if not self._order:
            return coarse
        labels: Labels = self._at_low(coarse)
        y, x = np.nonzero(self._at_low(_mixed(coarse)))
        if y.size:
            labels[y, x] = self._meaning.labels_of(self._interpolated(logits, {0: y, 1: x}))
        return labels

    def _at_low(self, plane: Labels) -> Labels:
        return np.take(np.take(plane, self._low[1], 1), self._low[0], 0)

    def _interpolated(self, logits: Floats, at: dict[int, Indices]) -> Floats:
        """Logits (K, n) at n points of the scan's plane: the operations of `resample`, in its order."""
        ends = {axis: (self._low[axis][at[axis]], self._high[axis][at[axis]]) for axis in at}
        if len(self._order) == 1:
            [axis] = self._order
            fixed = self._low[1 - axis][at[1 - axis]]
            low, high = (logits[EVERY_CHANNEL + _in_order(axis, end, fixed)] for end in ends[axis])
            return between(low, high, self._weight[axis][at[axis]])
        first, second = self._order
        sides = []
        for across in ends[second]:
            low, high = (logits[EVERY_CHANNEL + _in_order(first, end, across)] for end in ends[first])
            sides.append(between(low, high, self._weight[first][at[first]]))
        return between(sides[0], sides[1], self._weight[second][at[second]])


def _in_order(axis: int, along: Indices, across: Indices) -> tuple[Indices, Indices]:
    return (along, across) if axis == 0 else (across, along)


def _mixed(labels: Labels) -> npt.NDArray[np.bool_]:
    """Where a voxel (h, w) or its neighbour below, to the right or in between has another label."""
    mixed = np.zeros(labels.shape, bool)
    down, right = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    mixed[:-1] |= down
    mixed[:, :-1] |= right
    mixed[:-1, :-1] |= down[:, 1:]
    return mixed
