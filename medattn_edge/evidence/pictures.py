"""Pictures of one slice: the reference's labels, a candidate's, and where the two differ."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from medattn_edge.inference.tiling import EVERY_CHANNEL
from medattn_edge.io.colours import RGB
from medattn_edge.io.display import display_window, draw_labels, model_window
from medattn_edge.io.organs import label_colours
from medattn_edge.labels import Meaning
from medattn_edge.spec import Code, Intensity
from medattn_edge.volume import Array, Volume

ONLY_REFERENCE: Final = (86, 180, 233)  # three of Okabe and Ito's colours, told apart with every colour vision
ONLY_CANDIDATE: Final = (230, 159, 0)
OTHER_LABEL: Final = (204, 121, 167)
_SIDE: Final = 420  # pixels of the longer side
_MARGIN: Final = 0.12  # of the cut's longer side, around what has labels
_LEAST: Final = 24  # voxels across a picture
_FILL, _LINE, _DIMMED = 0.16, 2, 0.62
_AS_STORED: Final = Intensity()
_AXES: Final = ("axial", "coronal", "sagittal")


@dataclass(frozen=True, eq=False)
class Cut:
    """What a picture is drawn of, small enough to be kept until all cases are seen.

    Attributes:
        plane: which slice it is, in words.
        flips: voxels with another label.
        grey: (3, rows, columns) in 0..1.
        reference: labels (rows, columns).
        candidate: labels, likewise.
        step: mm, or pixels, of (rows, columns).
        meaning: of the labels.
        codes: of labels, by name, as a spec has them.
    """

    plane: str
    flips: int
    grey: Array
    reference: Array
    candidate: Array
    step: tuple[float, float]
    meaning: Meaning
    codes: Mapping[str, Code] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """names[value] of a label; of a region from 1."""
        return ["", *self.meaning.names] if self.meaning.overlapping else list(self.meaning.names)

    @property
    def colours(self) -> list[RGB]:
        """colours[value] of a label, that the pictures are drawn with."""
        return label_colours(self.names, self.codes, on_grey=True)

    def pixels(self) -> tuple[Array, Array, Array]:
        """Float (rows, columns, 3) in 0..255: the reference's labels, the candidate's, the difference of the two."""
        box = _box((self.reference != 0) | (self.candidate != 0))
        grey, reference, candidate = self.grey[EVERY_CHANNEL + box], self.reference[box], self.candidate[box]
        size = _size(reference.shape, self.step)
        under = 255 * np.stack([_resized(channel, size) for channel in grey], axis=-1)
        first, second, colours = under.copy(), under.copy(), self.colours
        for pixels, labels in ((first, reference), (second, candidate)):
            drawn = self.meaning.maps(labels) if self.meaning.overlapping else labels
            draw_labels(pixels, drawn, _FILL, _LINE, colours)
        return first, second, _difference(under, reference, candidate)

    def drawn(self) -> tuple[bytes, bytes, bytes]:
        """The same as PNG pictures."""
        first, second, third = map(_png, self.pixels())
        return first, second, third


def worst_cuts(
    volume: Volume,
    meaning: Meaning,
    reference: Volume,
    candidate: Volume,
    count: int,
    intensity: Intensity = _AS_STORED,
    codes: Mapping[str, Code] | None = None,
) -> list[Cut]:
    """The slices with the most voxels of another label; where none has any, the one with most labels.

    Args:
        volume: (D, H, W) or (C, D, H, W); its first channel is shown, or its colours when it is a picture of three.
        meaning: of the labels.
        reference: labels on the volume's grid.
        candidate: labels on the volume's grid.
        count: of slices at most; 0 for none.
        intensity: of the network: what it clips away is black and white.
        codes: of labels, by name, as its spec has them: organs have the colours of their codes.
    """
    if count < 1:
        return []
    axis = _across(volume)
    before, after = reference.to_lps().voxels, candidate.to_lps().voxels
    others = tuple(one for one in range(3) if one != axis)
    flips = np.count_nonzero(before != after, axis=others)
    order = [int(place) for place in np.argsort(-flips, kind="stable")[:count] if flips[place]]
    if not order:
        order = [int(np.count_nonzero(before, axis=others).argmax())]
    shown, window = _shown(volume, intensity)
    cuts = [_cut(shown, window, axis, place, (before, after), int(flips[place]), meaning) for place in order]
    return [replace(cut, codes=codes or {}) for cut in cuts]


def _across(volume: Volume) -> int:
    """The axis of (S, P, L) along which the slices lie: where voxels are thickest; the first of equals."""
    turned = volume.to_lps()
    single = [axis for axis, size in enumerate(turned.shape) if size == 1]
    thickest = max(range(3), key=lambda axis: (round(turned.spacing[axis], 3), -axis))
    return single[0] if single else thickest


def _shown(volume: Volume, intensity: Intensity) -> tuple[Volume, tuple[float, float]]:
    colours = volume.channels == 3 and not volume.calibrated
    voxels = volume.voxels if colours else volume.voxels.reshape(-1, *volume.shape)[:1]
    window = (0.0, 255.0) if colours else model_window(intensity, voxels) or display_window(voxels)
    return volume.with_voxels(voxels).to_lps(), window


def _cut(
    shown: Volume,
    window: tuple[float, float],
    axis: int,
    place: int,
    labels: tuple[Array, Array],
    flips: int,
    meaning: Meaning,
) -> Cut:
    values = np.nan_to_num(np.take(shown.voxels, place, axis=axis + 1).astype(np.float32))
    grey = np.clip((values - window[0]) / (window[1] - window[0]), 0, 1)
    flat = [np.take(one, place, axis=axis) for one in labels]
    if axis != 0:  # the head up
        grey, flat = grey[:, ::-1], [one[::-1] for one in flat]
    rows, columns = (shown.spacing[one] for one in range(3) if one != axis)
    middle = [(size - 1) / 2 for size in shown.shape]
    middle[axis] = place
    plane = f"{_AXES[axis]}, slice {place + 1} of {shown.shape[axis]}"
    if shown.calibrated:
        mm = float(shown.point(*middle)[2 - axis])
        plane += f" at {'RAI'[2 - axis] if mm < 0 else 'LPS'[2 - axis]} {abs(mm):.0f} mm"
    return Cut(
        plane,
        flips,
        np.repeat(grey, 3, axis=0) if len(grey) == 1 else grey,
        np.ascontiguousarray(flat[0]),
        np.ascontiguousarray(flat[1]),
        (rows, columns),
        meaning,
    )


def _box(mask: Array) -> tuple[slice, slice]:
    """Around the labels with a margin; all of a slice that has none."""
    if not mask.any():
        return slice(None), slice(None)
    ends = [np.flatnonzero(mask.any(axis=1 - axis))[[0, -1]] for axis in range(2)]
    longer = max(int(last - first) + 1 for first, last in ends)
    margin = max(round(_MARGIN * longer), (_LEAST - longer) // 2, 2)
    rows, columns = (slice(max(0, int(first) - margin), int(last) + 1 + margin) for first, last in ends)
    return rows, columns


def _size(shape: tuple[int, ...], step: tuple[float, float]) -> tuple[int, int]:
    """(columns, rows) in pixels; never fewer than there are voxels, so that no voxel vanishes."""
    extent = [count * one for count, one in zip(shape, step, strict=True)]
    scale = max(_SIDE / max(extent), *(1 / one for one in step))
    rows, columns = (max(8, round(one * scale)) for one in extent)
    return columns, rows


def _resized(flat: Array, size: tuple[int, int]) -> Array:
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(flat, dtype=np.float32))
    return np.asarray(picture.resize(size, Image.Resampling.BILINEAR))


def _difference(under: Array, reference: Array, candidate: Array) -> Array:
    """The dimmed slice, and every voxel with another label in a colour that says which way it went."""
    pixels = _DIMMED * under
    rows, columns = ((np.arange(n) * m) // n for n, m in zip(under.shape, reference.shape, strict=False))
    before, after = reference[rows[:, None], columns], candidate[rows[:, None], columns]
    differs = before != after
    kinds = (
        (differs & (after == 0), ONLY_REFERENCE),
        (differs & (before == 0), ONLY_CANDIDATE),
        (differs & (before != 0) & (after != 0), OTHER_LABEL),
    )
    for mask, colour in kinds:
        pixels[mask] = colour
    return pixels


def _png(pixels: Array) -> bytes:
    from PIL import Image

    picture: Any = Image.fromarray(np.clip(pixels + 0.5, 0, 255).astype(np.uint8))
    with io.BytesIO() as file:
        picture.save(file, format="PNG", optimize=True)
        return file.getvalue()
