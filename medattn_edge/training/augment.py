"""Augmentation: small changes that a scanner, a table or a patient could make. Never a mirror: left stays left."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """The largest changes; each sample draws its own evenly between minus and plus them.

    Rotation, scale and translation are in the axial plane, or that of a 2-D network's slices. Those of the intensities
    are relative to the patch itself, so that they do not depend on the normalisation.

    Attributes:
        rotation: Degrees.
        scale: A fraction.
        translation: A fraction of the patch.
        gain: A fraction of the distance from the mean.
        offset: Standard deviations.
        gamma: The exponent between the smallest and the largest value is multiplied by e^gamma at most.
        noise: The largest standard deviation of the noise, in standard deviations of the patch; never negative.
    """

    rotation: float = 10.0
    scale: float = 0.1
    translation: float = 0.05
    gain: float = 0.1
    offset: float = 0.1
    gamma: float = 0.2
    noise: float = 0.05


STANDARD = Augmentation()


@dataclass(frozen=True)
class Plane:
    """The axial plane in a patch, or of a 2-D network that of its slices.

    Attributes:
        axes: Which spatial axes these are, back to front before left to right: H and W in LPS.
        spacing: mm (or any unit) along these two.
    """

    axes: tuple[int, int]
    spacing: tuple[float, float] = (1.0, 1.0)


def augment(
    images: Tensor, labels: Tensor, rng: np.random.Generator, plane: Plane, limits: Augmentation = STANDARD
) -> tuple[Tensor, Tensor]:
    """Moved and recoloured images (N, C, *spatial) and the labels (N, *spatial) moved with them.

    Images are interpolated linearly, labels by the nearest voxel; what comes in from outside repeats the border.

    Args:
        images: (N, C, *spatial).
        labels: (N, *spatial), any integer type.
        rng: Where all randomness comes from.
        plane: The plane of rotations in the patches.
        limits: The largest changes.
    """
    grid = F.affine_grid(_affine(images, rng, plane, limits), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    # Through float32, as grid_sample wants it: label values are exact up to 2^24.
    values = labels[:, None].to(images.dtype)
    values = F.grid_sample(values, grid, mode="nearest", padding_mode="border", align_corners=False)
    return recolour(moved, rng, limits), values[:, 0].to(labels.dtype)


def recolour(images: Tensor, rng: np.random.Generator, limits: Augmentation = STANDARD) -> Tensor:
    """Images (N, C, *spatial) with other gain, offset, gamma and noise, the same for all channels of a sample."""
    count, over = images.shape[0], tuple(range(1, images.dim()))

    def draw(limit: float) -> Tensor:
        drawn = rng.uniform(-limit, limit, count).astype(np.float32)
        return torch.from_numpy(drawn).reshape(-1, *[1] * len(over))

    low, high = images.amin(over, keepdim=True), images.amax(over, keepdim=True)
    extent = (high - low).clamp_min(1e-6)
    curved = ((images - low) / extent).clamp(0, 1) ** torch.exp(draw(limits.gamma)) * extent + low
    mean, deviation = curved.mean(over, keepdim=True), curved.std(over, keepdim=True)
    noise = torch.from_numpy(rng.standard_normal(tuple(images.shape), np.float32))
    changed = mean + (curved - mean) * (1 + draw(limits.gain))
    return changed + deviation * (draw(limits.offset) + draw(limits.noise).abs() * noise)


def _affine(images: Tensor, rng: np.random.Generator, plane: Plane, limits: Augmentation) -> Tensor:
    """(N, dims, dims + 1) from output to input, in grid_sample's units: -1..1 over each axis, the last axis first."""
    dims = images.dim() - 2
    first, second = plane.axes
    # Half the patch in mm: a rotation is one only where both axes have the same unit.
    half = [images.shape[2 + axis] * mm / 2 for axis, mm in zip(plane.axes, plane.spacing, strict=True)]
    ratio = half[1] / half[0]
    moves = np.tile(np.eye(dims, dims + 1), (images.shape[0], 1, 1))
    for move in moves:
        angle = math.radians(rng.uniform(-limits.rotation, limits.rotation))
        factor = 1 + rng.uniform(-limits.scale, limits.scale)
        move[first, first] = move[second, second] = factor * math.cos(angle)
        move[first, second], move[second, first] = -factor * math.sin(angle) * ratio, factor * math.sin(angle) / ratio
        for axis in plane.axes:  # the whole patch is 2 units long
            move[axis, dims] = 2 * rng.uniform(-limits.translation, limits.translation)
    turned = np.concatenate([moves[:, ::-1, :dims][:, :, ::-1], moves[:, ::-1, dims:]], axis=2)
    return torch.from_numpy(turned.astype(np.float32))
