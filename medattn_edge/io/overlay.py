"""A picture of labels on their scan: what a reader looks at before trusting anything else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medattn_edge.atomic import replacing
from medattn_edge.errors import GeometryError
from medattn_edge.io.colours import RGB, heat_colours
from medattn_edge.io.display import display_window, draw_labels, label_name, masks, names_of_values
from medattn_edge.io.organs import label_colours
from medattn_edge.io.page import LegendEntry, Panel, PanelRow, compose
from medattn_edge.spec import Code
from medattn_edge.volume import Array, Volume

_FILL, _HEAT, _DIMMED = 0.14, 0.75, 0.8
_MOST_ABSENT = 12  # labels without a voxel that the legend names


@dataclass(frozen=True)
class _View:
    """One direction of cuts in the radiological convention.

    Attributes:
        name: of the direction.
        axis: of (D, H, W) that it is along.
        edges: letters of what lies left, right, up and down.
        ends: letters of what lies below and above zero.
    """

    name: str
    axis: int
    edges: str
    ends: str


_Labels = tuple[Array, Sequence[RGB]]  # and the colour of each value
_VIEWS = (_View("axial", 0, "RLAP", "FH"), _View("coronal", 1, "RLHF", "AP"), _View("sagittal", 2, "APHF", "RL"))


def write_overlay(  # noqa: PLR0913 - each is one thing that is drawn, or how
    path: Path,
    scan: Volume,
    labels: Volume,
    names: Sequence[str],
    *,
    codes: Mapping[str, Code] | None = None,
    window: tuple[float, float] | None = None,
    attention: Array | None = None,
    attention_name: str = "",
) -> None:
    """Write a PNG: the cuts with the most labelled voxels, in true proportions, the patient's left on the right.

    Args:
        path: of the PNG.
        scan: (D, H, W) or (C, D, H, W), of which the first channel is shown, or all three of a colour picture.
        labels: (D, H, W) on the same grid; or regions that may overlap, (K, D, H, W) of 0 and 1.
        names: names[value] names a label; or one per region.
        codes: of labels, by name, as a spec has them: for the colours of organs, see `label_colours`.
        window: the values that become black and white, such as `model_window` gives for a network; by default the 1st
            and 99th percentile of the values above the smallest.
        attention: (D, H, W) on the same grid, for a second row, as heat from its least to its largest value.
        attention_name: what that row is called.

    Raises:
        GeometryError: when the grids differ.
        OutputError: when the file cannot be written.
    """
    if labels.shape != scan.shape or not np.allclose(labels.affine, scan.affine, rtol=0, atol=1e-2):
        raise GeometryError(
            f"labels on a grid of {labels.shape}", expected=f"the scan's grid of {scan.shape}", hint="labels.like(scan)"
        )
    turned = _shown(scan, window)
    drawn = labels.to_lps().voxels
    scale = _pixels_per_mm(turned.scan)
    cuts = [(view, _busiest(drawn, view.axis)) for view in (_VIEWS if scan.shape[0] > 1 else _VIEWS[:1])]
    colours = label_colours(names_of_values(labels.voxels, 3, names), codes, on_grey=True)
    rows = [PanelRow([_label_panel(turned, (drawn, colours), cut, scale) for cut in cuts])]
    if attention is not None:
        finite = np.nan_to_num(attention.astype(np.float32))
        low, high = float(finite.min()), float(finite.max())
        heat = scan.with_voxels((finite - low) / max(high - low, 1e-9)).to_lps().voxels
        panels = [_heat_panel(turned, (drawn, colours), heat, cut, scale) for cut in cuts]
        rows.append(PanelRow(panels, f"{attention_name or 'attention'}   {low:.2f}", f"{high:.2f}"))
    picture = compose(rows, _legend(labels, names), scale if scan.calibrated else 0.0, colours)
    with replacing(path) as temporary, temporary.open("wb") as file:
        picture.save(file, format="PNG")


@dataclass(frozen=True)
class _Shown:
    """A scan and how its values become 0..1.

    Only the cuts are ever converted: a whole scan in colours and floating point would be six times its size.

    Attributes:
        scan: (C, D, H, W) as it was stored.
        low: the value that becomes 0.
        high: the value that becomes 1.
    """

    scan: Volume
    low: float
    high: float

    def cut(self, cut: tuple[_View, int]) -> Array:
        """(3, rows, columns) in 0..1: the grey values in their window, three times, or the colours of a picture."""
        values = np.nan_to_num(_cut(self.scan.voxels, *cut).astype(np.float32))
        shown: Array = np.clip((values - self.low) / max(self.high - self.low, 1e-6), 0, 1)
        return shown if len(shown) == 3 else np.repeat(shown, 3, axis=0)


def _shown(scan: Volume, window: tuple[float, float] | None) -> _Shown:
    colour = scan.channels == 3 and not scan.calibrated
    voxels = scan.voxels if colour else scan.voxels.reshape(-1, *scan.shape)[:1]
    low, high = window or ((0.0, 255.0) if colour else display_window(voxels))
    return _Shown(scan.with_voxels(voxels).to_lps(), low, high)


def _pixels_per_mm(volume: Volume) -> float:
    """One scale for all panels, so that they can be compared."""
    sizes = [size * step for size, step in zip(volume.shape, volume.spacing, strict=True)]
    return 460 / max(sizes) if volume.shape[0] > 1 else 620 / max(sizes[1:])


def _busiest(labels: Array, axis: int) -> int:
    """The cut with the most labelled voxels; the middle one when there is none."""
    anywhere = labels if labels.ndim == 3 else labels.any(axis=0)
    counts = np.count_nonzero(anywhere, axis=tuple({0, 1, 2} - {axis}))
    return int(counts.argmax()) if counts.any() else len(counts) // 2


def _cut(array: Array, view: _View, index: int) -> Array:
    """(..., rows, columns) of (..., D, H, W), the head up."""
    flat = np.take(array, index, axis=view.axis - 3)
    return flat if view.axis == 0 else np.flip(flat, axis=-2)


def _size(volume: Volume, view: _View, scale: float) -> tuple[int, int]:
    """(columns, rows) of a panel in pixels."""
    rows, columns = (round(volume.shape[a] * volume.spacing[a] * scale) for a in range(3) if a != view.axis)
    return max(columns, 8), max(rows, 8)


def _smooth(flat: Array, size: tuple[int, int]) -> Array:
    """(rows, columns) by linear interpolation."""
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(flat, dtype=np.float32))
    return np.asarray(picture.resize(size, Image.Resampling.BILINEAR))


def _grey(shown: _Shown, cut: tuple[_View, int], scale: float) -> Array:
    """The scan under a panel, float (rows, columns, 3) in 0..255."""
    size = _size(shown.scan, cut[0], scale)
    return 255 * np.stack([_smooth(channel, size) for channel in shown.cut(cut)], axis=-1)


def _label_panel(shown: _Shown, labels: _Labels, cut: tuple[_View, int], scale: float) -> Panel:
    """Every label as a light fill and an outline of two pixels just inside its border."""
    pixels = _grey(shown, cut, scale)
    draw_labels(pixels, _cut(labels[0], *cut), _FILL, 2, labels[1])
    return _panel(pixels, shown.scan, cut)


def _heat_panel(shown: _Shown, labels: _Labels, heat: Array, cut: tuple[_View, int], scale: float) -> Panel:
    """The attention as heat over the dimmed scan, which shows through where there is little; thin outlines."""
    pixels = _DIMMED * _grey(shown, cut, scale)
    share = np.clip(_smooth(_cut(heat, *cut), (pixels.shape[1], pixels.shape[0])), 0, 1)
    pixels += _HEAT * share[..., None] * (heat_colours(share) - pixels)
    draw_labels(pixels, _cut(labels[0], *cut), 0.0, 1, labels[1])
    return _panel(pixels, shown.scan, cut)


def _panel(pixels: Array, volume: Volume, cut: tuple[_View, int]) -> Panel:
    view, index = cut
    pixels = np.clip(pixels + 0.5, 0, 255).astype(np.uint8)
    if not volume.calibrated:
        return Panel(pixels, "", f"{volume.shape[2]} x {volume.shape[1]} pixels")
    # The position of the panel's middle along its own patient axis: L for sagittal, P for coronal, H for axial.
    middle: list[float] = [(size - 1) / 2 for size in volume.shape]
    middle[view.axis] = index
    mm = float(volume.point(*middle)[2 - view.axis])
    return Panel(pixels, view.edges, f"{view.name}   {view.ends[mm > 0]} {abs(mm):.0f} mm")


def _legend(labels: Volume, names: Sequence[str]) -> list[LegendEntry]:
    """Name and amount of every label that is there, and of every one that has a name and no voxel."""
    known = names_of_values(labels.voxels, 3, names)
    counts = {value: int(np.count_nonzero(mask)) for value, mask in masks(labels.voxels, 3)}
    absent = [value for value, name in enumerate(known) if value and name and value not in counts]
    entries = []
    for value in sorted([*counts, *absent[:_MOST_ABSENT]]):
        count = counts.get(value, 0)
        volume = f"{count * labels.voxel_ml:,.1f}" if count else "0"
        amount = f"{volume} ml" if labels.calibrated else f"{count:,} pixels"
        entries.append(LegendEntry(value, f"{label_name(known, value)}   {amount}", bool(count)))
    if len(absent) > _MOST_ABSENT:
        text = f"{len(absent) - _MOST_ABSENT} more   0 {'ml' if labels.calibrated else 'pixels'}"
        entries.append(LegendEntry(0, text))
    return entries
