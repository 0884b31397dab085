"""Slices of a scan as pixels: in grey, under labels, under an attention map, and under the difference of two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medattn_edge.io.colours import heat_colours
from medattn_edge.io.display import display_window, draw_labels, model_window
from medattn_edge.io.organs import label_colours
from medattn_edge.labels import Meaning
from medattn_edge.spec import ModelSpec
from medattn_edge.volume import Array, Volume

_LONGEST = 300  # pixels of a picture's longer side
_THICK = 1.3  # times the other spacings: slices are cut across the axis of such steps
_DIMMED, _HEAT, _FILL = 0.75, 0.8, 0.2
_NOTHING, _LOWER, _HIGHER = np.array((24, 26, 30.0)), np.array((70, 160, 255.0)), np.array((255, 150, 40.0))


@dataclass(frozen=True)
class View:
    """One direction of cuts, in the radiological convention.

    Attributes:
        name: of the plane.
        axis: of (D, H, W), in LPS, that slices follow each other along.
        ends: letters of what lies below and above 0 mm.
        reading: what lies where in a picture.
    """

    name: str
    axis: int
    ends: str
    reading: str


VIEWS = (
    View("axial", 0, "FH", "the patient's right is on the left, the front is up"),
    View("coronal", 1, "AP", "the patient's right is on the left, the head is up"),
    View("sagittal", 2, "RL", "the patient's front is on the left, the head is up"),
)


def view_of(volume: Volume) -> View:
    """The plane that a scan was taken in, by its thickest steps; axial where they are alike."""
    spacing = volume.to_lps().spacing
    thickest = int(np.argmax(spacing))
    others = max(step for axis, step in enumerate(spacing) if axis != thickest)
    return VIEWS[thickest] if spacing[thickest] > _THICK * others and volume.to_lps().shape[thickest] > 1 else VIEWS[0]


class Slices:
    """Slices of one scan; arrays lie on its own grid, and pictures are turned as radiologists look at them."""

    def __init__(self, volume: Volume, spec: ModelSpec) -> None:
        """volume: (D, H, W), or (C, D, H, W), of which the first channel is shown; spec: for its window and colours."""
        self.view, self._volume = view_of(volume), volume
        grey = volume.voxels.reshape(-1, *volume.shape)[0]
        self._window = model_window(spec.intensity, grey) or display_window(grey)
        self._colours = label_colours(["", *Meaning.of(spec).structures], spec.codes, on_grey=True)
        self._grey, turned = self._turned(grey), volume.to_lps()
        sides = [turned.shape[a] * turned.spacing[a] for a in range(3) if a != self.view.axis]
        rows, columns = (max(8, round(side * _LONGEST / max(sides))) for side in sides)
        self._size, self._lps = (columns, rows), turned

    @property
    def count(self) -> int:
        """How many slices there are."""
        return int(self._lps.shape[self.view.axis])

    def sums(self, array: Array) -> Array:
        """Sum of the magnitudes in every slice, float64, of an array (D, H, W) or (K, D, H, W)."""
        turned = self._turned(array)
        cuts = (np.take(turned, index, axis=self.view.axis - 3) for index in range(self.count))
        return np.array([np.abs(cut).sum(dtype=np.float64) for cut in cuts])

    def caption(self, index: int) -> str:
        """Which slice it is: where its middle lies along the patient's axis."""
        middle: list[float] = [(size - 1) / 2 for size in self._lps.shape]
        middle[self.view.axis] = index
        mm = float(self._lps.point(*middle)[2 - self.view.axis])
        return f"{self.view.name}, {self.view.ends[mm > 0]} {abs(mm):.0f} mm, slice {index + 1} of {self.count}"

    def grey(self, index: int) -> Array:
        """uint8 (rows, columns, 3): the scan."""
        return _bytes(self._scan(index))

    def labelled(self, index: int, labels: Array) -> Array:
        """The scan with labels (D, H, W), or regions (K, D, H, W) of 0 and 1, filled lightly and outlined."""
        pixels = self._scan(index)
        draw_labels(pixels, self._cut(self._turned(labels), index), _FILL, 2, self._colours)
        return _bytes(pixels)

    def heat(self, index: int, array: Array, low: float, high: float, labels: Array) -> Array:
        """A map (D, H, W) as heat from low to high over the dimmed scan, with the outlines of labels."""
        pixels = _DIMMED * self._scan(index)
        values = self._smooth(self._cut(self._turned(array), index))
        share = np.clip((np.nan_to_num(values) - low) / max(high - low, 1e-12), 0, 1)
        pixels += _HEAT * np.sqrt(share)[..., None] * (heat_colours(share) - pixels)
        draw_labels(pixels, self._cut(self._turned(labels), index), 0.0, 1, self._colours)
        return _bytes(pixels)

    def difference(self, index: int, first: Array, second: Array, limit: float) -> Array:
        """second - first: blue where it is lower, orange where it is higher, full at limit."""
        cuts = [self._cut(self._turned(array), index).astype(np.float32) for array in (first, second)]
        share = np.clip(self._smooth(np.nan_to_num(cuts[1] - cuts[0])) / max(limit, 1e-30), -1, 1)[..., None]
        return _bytes(_NOTHING + np.abs(share) * (np.where(share < 0, _LOWER, _HIGHER) - _NOTHING))

    def _turned(self, array: Array) -> Array:
        return self._volume.with_voxels(array).to_lps().voxels

    def _cut(self, turned: Array, index: int) -> Array:
        """(..., rows, columns), the head up."""
        flat = np.take(turned, index, axis=self.view.axis - 3)
        return flat if self.view.axis == 0 else np.flip(flat, axis=-2)

    def _scan(self, index: int) -> Array:
        values = self._smooth(np.nan_to_num(self._cut(self._grey, index).astype(np.float32)))
        low, high = self._window
        grey = 255 * np.clip((values - low) / max(high - low, 1e-6), 0, 1)
        return np.repeat(grey[..., None], 3, axis=-1)

    def _smooth(self, flat: Array) -> Array:
        from PIL import Image

        picture = Image.fromarray(np.ascontiguousarray(flat, dtype=np.float32))
        return np.asarray(picture.resize(self._size, Image.Resampling.BILINEAR), dtype=np.float64)


def side_by_side_pixels(rows: Sequence[Sequence[Array]], gap: int = 8) -> Array:
    """One picture of rows of pictures of one size each."""
    height, width = rows[0][0].shape[:2]
    columns = max(len(row) for row in rows)
    page = np.full((len(rows) * (height + gap) - gap, columns * (width + gap) - gap, 3), _bytes(_NOTHING), np.uint8)
    for y, row in enumerate(rows):
        for x, pixels in enumerate(row):
            top, left = y * (height + gap), x * (width + gap)
            page[top : top + height, left : left + width] = pixels
    return page


def matrix_pixels(matrix: Array, low: float, high: float) -> Array:
    """A matrix (C, C) as heat, a block of pixels for each number."""
    times = max(1, 256 // len(matrix))
    share = np.clip((matrix - low) / max(high - low, 1e-12), 0, 1)
    return _bytes(heat_colours(share.repeat(times, 0).repeat(times, 1)))


def matrix_difference(first: Array, second: Array, limit: float) -> Array:
    """second - first of two matrices, as `Slices.difference` colours it."""
    times = max(1, 256 // len(first))
    share = np.clip((second - first) / max(limit, 1e-30), -1, 1).repeat(times, 0).repeat(times, 1)[..., None]
    return _bytes(_NOTHING + np.abs(share) * (np.where(share < 0, _LOWER, _HIGHER) - _NOTHING))


def _bytes(pixels: Array) -> Array:
    return np.clip(pixels + 0.5, 0, 255).astype(np.uint8)
