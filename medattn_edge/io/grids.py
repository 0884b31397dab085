"""Several scans on one grid: as they are when they lie on it, else resampled to the first when that is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from medattn_edge.errors import GeometryError, ScanError
from medattn_edge.volume import Array, Volume

# Of a voxel, at the corners of the scan: headers round, in float32 or to a few digits.
SAME_PLACE = 0.01


@dataclass(frozen=True, eq=False)
class Gathered:
    """Scans that have been brought onto the first one's grid.

    Attributes:
        volume: (C, D, H, W) on the grid of the first.
        notes: what was resampled, and how much of it lies outside.
    """

    volume: Volume
    notes: tuple[str, ...]


def gather(volumes: Sequence[Volume], names: Sequence[str], resample: bool = False) -> Gathered:
    """One volume whose channels are these, in this order.

    Axes in another order or direction are turned, which is exact. Values keep their type, or the smallest that holds
    those of all.

    Args:
        volumes: each of one channel.
        names: of each, for what is said of it.
        resample: bring a scan on another grid to the first's, linearly, instead of refusing it.

    Raises:
        ScanError: for a scan of several channels among several.
        GeometryError: for grids that differ, which names each difference, and for scans that do not overlap.
    """
    first, notes, channels = volumes[0], list[str](), list[Array]()
    for volume, name in zip(volumes, names, strict=True):
        if volume.channels != 1:
            raise ScanError(
                f"{name} has {volume.channels} channels",
                expected="scans of one channel each, or one file with all of them",
                hint="give that file alone, or one scan for each channel",
            )
        one = replace(volume, voxels=volume.voxels.reshape(volume.shape))
        turned = _turned(one, first)
        if turned is None:
            differing = differences(first, one)
            if not resample or one.calibrated != first.calibrated:
                raise GeometryError(
                    f"{name} is not on the grid of {names[0]}: {'; '.join(differing)}",
                    expected="scans of one grid",
                    hint="register and resample them together, or --resample-to-first where they are registered",
                )
            turned, outside = resampled(one, first)
            if outside == 1:
                raise GeometryError(
                    f"{name} and {names[0]} do not overlap: {'; '.join(differing)}",
                    expected="scans of the same part of one patient",
                    hint="give the scans of one study",
                )
            notes.append(
                f"{name} was resampled linearly to the grid of {names[0]} ({'; '.join(differing)});"
                f" {outside:.1%} of the voxels lie outside it and have its lowest value"
            )
        channels.append(turned)
    return Gathered(replace(first, voxels=np.stack(channels)), tuple(notes))


def differences(first: Volume, other: Volume) -> list[str]:
    """How the grid of another scan differs from the first's, both values of each, with axes as LPS has them."""
    one, two = first.to_lps(), other.to_lps()
    said = []
    if one.calibrated != two.calibrated:
        words = {True: "in mm", False: "without mm"}
        said.append(f"spacing {words[two.calibrated]}, not {words[one.calibrated]}")
    if one.shape != two.shape:
        said.append(f"size {_numbers(two.shape, 'x')}, not {_numbers(one.shape, 'x')} (D, H, W)")
    if not np.allclose(one.spacing, two.spacing, rtol=1e-4, atol=0):
        said.append(f"spacing {_numbers(two.spacing, 'x')}, not {_numbers(one.spacing, 'x')} mm (D, H, W)")
    turns = [volume.affine[:3, :3] / np.asarray(volume.spacing) for volume in (one, two)]
    if not np.allclose(turns[0], turns[1], rtol=0, atol=1e-4):
        said.append(f"direction {_rows(turns[1])}, not {_rows(turns[0])} (columns D, H, W; rows L, P, S)")
    if np.abs(one.affine[:3, 3] - two.affine[:3, 3]).max() > SAME_PLACE * min(one.spacing):
        said.append(f"origin {_numbers(two.affine[:3, 3], ', ')}, not {_numbers(one.affine[:3, 3], ', ')} mm (L, P, S)")
    return said or [f"its far corner is {_apart(one, two):.3g} mm away"]


def resampled(volume: Volume, grid: Volume) -> tuple[Array, float]:
    """The voxels float32 (D, H, W) of a volume at the voxels of another grid.

    Trilinear; a voxel whose centre is more than half a voxel outside has the lowest value.

    Args:
        volume: (D, H, W).
        grid: the other grid.

    Returns:
        The voxels, and which part of them is outside, 0 to 1.
    """
    mapping = np.linalg.solve(volume.affine, grid.affine)
    depth, height, width = grid.shape
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    plane = np.stack([rows, columns], axis=-1) @ mapping[:3, 1:3].T + mapping[:3, 3]
    ends = np.asarray(volume.shape) - 1
    source, lowest = volume.voxels.astype(np.float32, copy=False), volume.voxels.min()
    out, outside = np.empty(grid.shape, np.float32), 0
    for row in range(depth):  # slice by slice: the positions take 24 bytes a voxel
        where = plane + row * mapping[:3, 0]
        beyond = ((where < -0.5 - 1e-6) | (where > ends + 0.5 + 1e-6)).any(axis=-1)
        out[row] = _interpolated(source, np.clip(where, 0, ends))
        out[row][beyond] = lowest
        outside += int(beyond.sum())
    return out, outside / out.size


def _interpolated(source: Array, where: Array) -> Array:
    """source (D, H, W) at the positions (..., 3), all of them on it."""
    low = where.astype(np.intp)
    high = np.minimum(low + 1, np.asarray(source.shape) - 1)
    weight = (where - low).astype(np.float32)
    total: Array = np.zeros(where.shape[:-1], np.float32)
    for corner in np.ndindex(2, 2, 2):
        index = tuple(np.where(bit, high[..., axis], low[..., axis]) for axis, bit in enumerate(corner))
        share = np.prod(
            [weight[..., axis] if bit else 1 - weight[..., axis] for axis, bit in enumerate(corner)], axis=0
        )
        total += share * source[index]
    return total


def _turned(volume: Volume, first: Volume) -> Array | None:
    """The voxels with the axes of the first, when both are the same voxels in the patient; else None."""
    one, two = first.to_lps(), volume.to_lps()
    if one.calibrated != two.calibrated or one.shape != two.shape or _apart(one, two) > SAME_PLACE * min(one.spacing):
        return None
    return replace(one, voxels=two.voxels).like(first).voxels


def _apart(one: Volume, two: Volume) -> float:
    """The longest way between the same corner of two grids, mm."""
    corners = [
        [0 if low else size - 1 for low, size in zip(bits, one.shape, strict=True)] for bits in np.ndindex(2, 2, 2)
    ]
    return float(max(np.linalg.norm(one.point(*corner) - two.point(*corner)) for corner in corners))


def _numbers(values: Sequence[float] | Array, between: str) -> str:
    return between.join(f"{float(value) + 0.0:.6g}" for value in values)


def _rows(matrix: Array) -> str:
    return "[" + "; ".join(_numbers(np.round(row, 5), " ") for row in matrix) + "]"
