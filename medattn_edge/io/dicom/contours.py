"""The outlines of a label in one slice: closed rings, holes and all, as a structure set holds them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from medattn_edge.errors import MissingDependency
from medattn_edge.volume import Array

Vertex = tuple[int, int]  # (h, w) in quarters of a pixel


def tracer() -> Any:
    """contourpy's `contour_generator`.

    Raises:
        MissingDependency: when it is not installed.
    """
    try:
        from contourpy import contour_generator
    except ImportError as error:
        raise MissingDependency.of_extra("contourpy", "dicom") from error
    return contour_generator


def outlines(mask: Array) -> list[Array]:
    """The closed rings around all that is not 0 in a slice.

    A vertex lies halfway between the centre of a pixel inside and of its neighbour outside, so a ring holds the centres
    of exactly the pixels inside. It cuts their corners: its area is half a pixel less than theirs (half a pixel more
    for a ring with one hole, and so on), which leaves even a single pixel a ring, a diamond of half its area.

    A hole is joined to the ring around it by a channel of no width, there and back along a row (a keyhole): the one
    form that is the same to readers that unite the rings of a slice and to those that let one cut out another. The
    channel stays a fifth of a pixel or more away from every centre, which some readers would leave out if it lay on
    it. An island in a hole is a ring of its own.

    Args:
        mask: (H, W).

    Returns:
        Rings, float64 (N, 2) of (h, w) in pixels, a pixel's centre being a whole number. The last vertex is not the
        first one again.

    Raises:
        MissingDependency: without contourpy.
    """
    generator = tracer()
    inside = mask != 0
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    if not rows.size:
        return []
    top, left = int(rows[0]), int(columns[0])
    # A border of nothing around it: the outline of what touches the edge of the slice lies outside the slice.
    part = np.pad(inside[top : rows[-1] + 1, left : columns[-1] + 1], 1)
    polygons, offsets = generator(z=part.astype(np.float64), fill_type="OuterOffset").filled(0.5, np.inf)
    rings = []
    for points, ends in zip(polygons, offsets, strict=True):
        quarters = np.rint(4 * points[:, ::-1]).astype(np.int64)
        pieces = [quarters[start : end - 1] for start, end in pairwise(ends.tolist())]
        rings.append(_without_midpoints(_joined(part, pieces)) / 4 + (top - 1, left - 1))
    return rings


def _joined(part: Array, pieces: list[Array]) -> Array:
    """The outer ring with every hole on a channel to its left: inside the mask, up to another ring of the polygon."""
    ring, *holes = ([(int(h), int(w)) for h, w in piece] for piece in pieces)
    detours = dict[Vertex, list[Vertex]]()
    for hole in holes:
        start = hole.index(min(hole, key=lambda vertex: (vertex[1], vertex[0])))
        row, last = hole[start]
        first = _left_of(part, hole[start])
        # From centre column to centre column, a quarter of a pixel beside the centres.
        channel = [(row + 1, first + 2), (row + 1, last - 2)]
        detours[row, first] = [*channel, *hole[start:], *hole[: start + 1], *channel[::-1], (row, first)]
    joined, paths = list[Vertex](), [iter(ring)]
    while paths:
        for vertex in paths[-1]:
            joined.append(vertex)
            if vertex in detours:
                paths.append(iter(detours.pop(vertex)))
                break
        else:
            paths.pop()
    assert not detours, "a channel that ends on no ring"
    return np.array(joined)


def _left_of(part: Array, vertex: Vertex) -> int:
    """Where the pixels inside end, from a hole's leftmost vertex to the left: there is a vertex too."""
    outside = np.flatnonzero(~part[vertex[0] // 4, : vertex[1] // 4 + 1])
    return 4 * int(outside[-1]) + 2


def _without_midpoints(ring: Array) -> Array:
    """The ring without what repeats a vertex, and without the vertices that it goes straight on at."""
    ring = ring[(ring != np.roll(ring, 1, axis=0)).any(axis=1)]
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    turns = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    back = (before * after).sum(axis=1) < 0  # the end of a channel
    kept: Array = ring[turns | back]
    return kept
