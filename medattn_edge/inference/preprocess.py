"""From a scan to network input: orientation, intensity, spacing, axis order."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import numpy as np
import numpy.typing as npt

from medattn_edge.errors import ScanError
from medattn_edge.inference.intensity import normalised
from medattn_edge.inference.resample import Floats, Positions, by_ratio, positions, resample
from medattn_edge.spec import Intensity, ModelSpec
from medattn_edge.volume import Array, Volume

SAME_SPACING = 1e-3  # spacings closer than this fraction are equal: headers round
MOST_VOXELS = 2**31  # 8 GB of float32: a larger resampled scan has a wrong spacing


@dataclass(frozen=True, eq=False)
class Prepared:
    """Network input made from a scan, and the way back.

    Attributes:
        image: float32 (C, *three axes), the scan's axes in the network's order, on the network's spacing.
        scan: what came in.
        oriented: the same voxels with their axes as the network's orientation has them: D, H and W run where it says.
        order: image axis 1 + i is axis order[i] of oriented.
        steps: per image axis, the network's voxel in voxels of oriented; exactly 1 where the axis was not resampled.
    """

    image: Floats
    scan: Volume
    oriented: Volume
    order: tuple[int, int, int]
    steps: tuple[float, float, float]

    @property
    def way_back(self) -> dict[int, Positions]:
        """For each resampled image axis 0, 1, 2 (D-like first): where the scan's voxels lie on it, in its voxels."""
        return {
            axis: positions(self.image.shape[1 + axis], self.oriented.shape[self.order[axis]], 1 / step)
            for axis, step in enumerate(self.steps)
            if step != 1
        }

    def samples(self, axis: int) -> Positions:
        """Where the image's voxels lie along its axis 0, 1 or 2 (D-like first), in voxels of the scan."""
        return positions(self.oriented.shape[self.order[axis]], self.image.shape[1 + axis], self.steps[axis])

    def in_network_order(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A view of an array (..., D, H, W) on the grid of oriented with its axes in the network's order."""
        return network_view(array, self.order)

    def oriented_labels(self, labels: Volume) -> Volume:
        """Labels of the scan's grid with their axes as `oriented` has them; raises GeometryError for another grid."""
        return labels.like(self.scan).like(self.oriented)

    def on_scan(self, voxels: Array) -> Volume:
        """Voxels (D, H, W) or (C, D, H, W) on the grid of oriented on the scan's own grid: a view, no copy."""
        return replace(self.oriented, voxels=voxels).like(self.scan)


def prepare(volume: Volume, spec: ModelSpec) -> Prepared:
    """What the network of `spec` wants to see of a scan; raises ScanError for a scan that it cannot judge.

    Oriented as spec.orientation says; intensities by the chain of spec.intensity, measured on the original grid; then
    resampled linearly to spec.spacing on a grid with the same centre and field of view; then in the axis order of
    spec.axes. A 2-D network sees slices along D, which is neither resampled nor moved. A slice without any contrast
    becomes zeros under a statistic per slice.
    """
    _check(volume, spec)
    oriented = volume.oriented(spec.orientation)
    axes = spec.axes if spec.dims == 3 else "D" + spec.axes
    d, h, w = ("DHW".index(axis) for axis in axes)
    order, steps = (d, h, w), [1.0, 1.0, 1.0]
    if spec.spacing is not None:
        wanted = spec.spacing if spec.dims == 3 else (oriented.spacing[0], *spec.spacing)
        ratios = [wanted[axis] / oriented.spacing[axis] for axis in order]
        steps = [1.0 if abs(ratio - 1) <= SAME_SPACING else ratio for ratio in ratios]
    image = _image(oriented, spec.intensity, order, steps)
    return Prepared(image, volume, oriented, order, (steps[0], steps[1], steps[2]))


def labels_on_image(labels: Volume, prepared: Prepared) -> Array:
    """Labels (D, H, W) of the scan's grid on the grid of prepared.image: at each of its voxels the nearest label.

    Of two that are equally near it is the later one. Rounding to even numbers, as numpy's rint does, would take the
    same voxel twice and leave the next one out wherever all positions lie half way.

    Raises GeometryError for labels that are not on the scan's grid.
    """
    nearest = prepared.in_network_order(prepared.oriented_labels(labels).voxels)
    for axis, step in enumerate(prepared.steps):
        if step != 1:
            nearest = np.take(nearest, np.floor(prepared.samples(axis) + 0.5).astype(np.intp), axis)
    return nearest


def network_view(array: npt.NDArray[Any], order: tuple[int, ...]) -> npt.NDArray[Any]:
    """A view whose last three axes are the array's last three in `order`."""
    lead = array.ndim - 3
    return array.transpose(*range(lead), *(lead + axis for axis in order))


def _image(oriented: Volume, intensity: Intensity, order: tuple[int, int, int], steps: list[float]) -> Floats:
    """The normalised and resampled image (C, *three axes), without ever holding all of it before it has shrunk."""
    sizes = tuple(oriented.shape[axis] for axis in order)
    samples = _forward(sizes, steps)
    slices = 1 + order.index(0)  # the image axis that the planes come along
    first = list(takewhile(lambda axis: axis != slices, by_ratio(samples, (oriented.channels, *sizes))))
    shape = [samples[1 + axis].size if 1 + axis in first else size for axis, size in enumerate(sizes)]
    image = np.empty((oriented.channels, *shape), np.float32)
    planes = network_view(image, tuple(np.argsort(order).tolist()))
    for channel, row, plane in normalised(oriented, intensity):
        for axis in first:  # one by one, in the order that the whole image would have
            plane = resample(plane, {order[axis - 1] - 1: samples[axis]})  # 0 is H and 1 is W
        planes[channel, row] = plane
    return resample(image, {axis: where for axis, where in samples.items() if axis not in first})


def _forward(sizes: tuple[int, ...], steps: list[float]) -> dict[int, Positions]:
    outs = [max(1, round(size / step)) for size, step in zip(sizes, steps, strict=True)]
    if math.prod(outs) > MOST_VOXELS:
        raise ScanError(
            f"the scan would have {'x'.join(map(str, outs))} voxels at the network's spacing",
            expected=f"at most {MOST_VOXELS}",
            hint="check the spacing in the scan's header",
        )
    grids = enumerate(zip(sizes, outs, steps, strict=True))
    return {1 + axis: positions(size, out, step) for axis, (size, out, step) in grids if step != 1}


def _check(volume: Volume, spec: ModelSpec) -> None:
    voxels = volume.voxels
    if volume.channels != spec.in_channels:
        what = "is an RGB picture (3 channels)" if _is_picture(volume) else f"has {volume.channels} channel(s)"
        raise ScanError(
            f"the scan {what}",
            expected=f"{spec.in_channels} channel(s){': ' if spec.channels else ''}{', '.join(spec.channels)}",
            hint=_channels_hint(volume, spec),
        )
    if voxels.dtype.kind not in "biuf":
        raise ScanError(f"voxels of type {voxels.dtype}", expected="real numbers", hint="convert the scan to int16")
    if spec.spacing is not None and not volume.calibrated:
        raise ScanError(
            "the scan has no voxel spacing",
            expected=f"millimetres, to bring it to the network's spacing {'x'.join(f'{mm:g}' for mm in spec.spacing)}",
            hint="--pixel-spacing 0.7x0.7",
        )
    if voxels.dtype.kind == "f":
        _check_finite(voxels)


def _is_picture(volume: Volume) -> bool:
    return volume.channels == 3 and volume.shape[0] == 1


def _channels_hint(volume: Volume, spec: ModelSpec) -> str:
    if spec.in_channels == 1:
        if _is_picture(volume):
            return "convert the picture to grey"
        return (
            '--volume N takes one of its volumes; as a file of its own: python -c "import nibabel; '
            "nibabel.load('in.nii.gz').slicer[..., 0].to_filename('out.nii.gz')\""
        )
    named = "+".join(f"{name}=SCAN" for name in spec.channels) or "+".join(["SCAN"] * spec.in_channels)
    return f"give a scan for each channel: {named}"


def _check_finite(voxels: Array) -> None:
    bad, largest = 0, np.finfo(np.float32).max
    first: tuple[int, ...] = ()
    for start, part in enumerate(voxels):  # part by part: a whole scan of truth values is not needed
        wrong = ~(np.abs(part) <= largest)  # also what float32 cannot hold
        if wrong.any():
            bad += int(wrong.sum())
            first = first or (start, *(int(index) for index in np.argwhere(wrong)[0]))
    if bad:
        axes = "(c, d, h, w)" if voxels.ndim == 4 else "(d, h, w)"
        raise ScanError(
            f"{bad} voxel(s) that are not finite, the first at {axes} = {first}: {voxels[first]}",
            expected="finite float32 values",
            hint="repair the scan, or convert it again from DICOM",
        )
