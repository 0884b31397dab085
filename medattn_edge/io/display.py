"""How a slice is shown to people: its grey window, the outlines of its labels, and what a label is called."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from medattn_edge.io.colours import RGB, colour_of
from medattn_edge.spec import Intensity
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
    values = _sampled(scan)
    inside = values[values > values.min()] if values.size else values
    inside = inside if inside.size else values
    low, high = np.percentile(inside, (1, 99)) if inside.size else (0.0, 1.0)
    return float(low), float(max(high, low + 1e-6))


def model_window(intensity: Intensity, scan: Array) -> tuple[float, float] | None:
    """The values that become black and white where a picture shows what a network sees: those it does not clip away.

    Args:
        intensity: of its spec; the first channel's steps count.
        scan: (..., D, H, W) of that channel, for percentiles.

    Returns:
        The bounds of a first step that clips (window, clip, percentile), or of a map that a clip follows; None where
        nothing is clipped: `display_window` then.
    """
    steps = intensity.of_channel(0)
    clips = [step.name in ("window", "clip", "percentile") for step in steps]
    if not steps or not (clips[0] or (steps[0].name == "map" and any(clips))):
        return None
    low, high = steps[0].bounds[:2]
    if not (low.percentile or high.percentile):
        return low.value, high.value
    values = _sampled(scan)
    values = values[values != 0] if "nonzero" in steps[0].scope else values
    if not values.size:
        return None
    ends = [float(np.percentile(values, one.value)) if one.percentile else one.value for one in (low, high)]
    return (ends[0], ends[1]) if ends[0] < ends[1] else None


def _sampled(scan: Array) -> Array:
    """The finite values of a scan, of a large one those of every n-th voxel along D, H and W."""
    step = int(np.ceil((scan.size / _MOST_VOXELS) ** (1 / 3)))
    values: Array = scan[..., ::step, ::step, ::step]
    return values[np.isfinite(values)]


def draw_labels(pixels: Array, labels: Array, fill: float, width: int, colours: Sequence[RGB] = ()) -> None:
    """Draw labels onto a slice, in place: each as a fill, and an outline just inside its border.

    Args:
        pixels: float (rows, columns, 3) in 0..255.
        labels: (rows, columns) of the scan's own grid, whose voxels become blocks of the finer pixels; or regions
            (K, rows, columns) of 0 and 1, which are drawn one over the other.
        fill: how much of the colour is laid over the inside, 0..1.
        width: of the outline, in pixels.
        colours: colours[value] of a label, as `label_colours` gives them; of the region `value`, from 1.
    """
    rows, columns = ((np.arange(n) * m) // n for n, m in zip(pixels.shape, labels.shape[-2:], strict=False))
    blocks = labels[..., rows[:, None], columns]
    for value, mask in masks(blocks, 2):
        colour = np.array(colour_of(colours, value))
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
