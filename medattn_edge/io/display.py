"""How a slice is shown to people: its grey window, the outlines of its labels, and what a label is called."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from medattn_edge.io.colours import label_colour
from medattn_edge.volume import Array

_MOST_VOXELS = 1 << 21  # that a percentile is taken of: it copies them in double precision


def display_window(scan: Array) -> tuple[float, float]:
    """The values that become black and white.

    Args:
        scan: (..., D, H, W); of a large one every n-th voxel along D, H and W counts.

    Returns:
        The 1st and 99th percentile without the smallest value, which is the padding around a CT or the air around a
        head, and without what is not finite; 0 and 1 where nothing is.
    """
    step = int(np.ceil((scan.size / _MOST_VOXELS) ** (1 / 3)))
    values = scan[..., ::step, ::step, ::step]
    values = values[np.isfinite(values)]
    inside = values[values > values.min()] if values.size else values
    inside = inside if inside.size else values
    low, high = np.percentile(inside, (1, 99)) if inside.size else (0.0, 1.0)
    return float(low), float(max(high, low + 1e-6))


def draw_labels(pixels: Array, labels: Array, fill: float, width: int) -> None:
    """Draw labels onto a slice, in place: each as a fill, and an outline just inside its border.

    Args:
        pixels: float (rows, columns, 3) in 0..255.
        labels: (rows, columns) of the scan's own grid, whose voxels become blocks of the finer pixels; or regions
            (K, rows, columns) of 0 and 1, which are drawn one over the other.
        fill: how much of the colour is laid over the inside, 0..1.
        width: of the outline, in pixels.
    """
    rows, columns = ((np.arange(n) * m) // n for n, m in zip(pixels.shape, labels.shape[-2:], strict=False))
    blocks = labels[..., rows[:, None], columns]
    for value, mask in masks(blocks, 2):
        colour = np.array(label_colour(value))
        if fill:
            pixels[mask] += fill * (colour - pixels[mask])
        pixels[_outline(mask, width)] = colour


def masks(labels: Array, dims: int) -> Iterator[tuple[int, Array]]:
    """The number of each label or region that is there, which is that of its colour, and where it is.

    Args:
        labels: of `dims` axes, values above 0 being labels; or with one axis more, in front, a map for each region,
            numbered from 1.
        dims: 2 for a slice, 3 for a scan.
    """
    if labels.ndim > dims:
        return ((number, region != 0) for number, region in enumerate(labels, start=1) if region.any())
    return ((value, labels == value) for value in np.unique(labels[labels > 0]).tolist())


def names_of_values(labels: Array, dims: int, names: Sequence[str]) -> list[str]:
    """The names of `masks`' numbers, number 0 being the background: regions are named from 1."""
    return ["", *names] if labels.ndim > dims else list(names)


def label_name(names: Sequence[str], value: int) -> str:
    """The name of a label value, or its number where it has none."""
    return names[value] if value < len(names) and names[value] else f"label {value}"


def _outline(mask: Array, width: int) -> Array:
    """The outermost pixels of a mask; the edge of the picture is a border too."""
    inner = mask
    for _ in range(width):
        wide = np.pad(inner, 1)
        inner = inner & wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]
    return mask & ~inner
