"""Volume: voxels that never lose their place in the patient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt

from medattn_edge.errors import GeometryError

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels and where they are.

    Attributes:
        voxels: (D, H, W), or (C, D, H, W) for several channels (an RGB picture, several MR sequences on one grid).
        affine: 4x4, float64; maps the index (d, h, w, 1) of a voxel's centre to (L, P, S, 1) millimetres, DICOM's
            patient coordinates: x to the left, y to the back, z to the head. Its first three columns are the steps of
            D, H and W.
        calibrated: False when the file has no spacing (a picture): the affine is then in pixels.
        source: what the file's header says of this grid beyond the affine, as its format's reader left it for its own
            writer: plain values that JSON can hold, "affine" and "format" among them. None when there is no more to
            say. It stays with the grid in `with_voxels` and `like`.

    Raises:
        GeometryError: for an affine that is singular or not finite.
    """

    voxels: Array
    affine: Array
    calibrated: bool = True
    source: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        if self.voxels.ndim not in (3, 4) or 0 in self.voxels.shape:
            raise GeometryError(
                f"voxels of shape {self.voxels.shape}",
                expected="(D, H, W) or (C, D, H, W), none of them 0",
                hint="give one 3-D scan",
            )
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or not np.allclose(affine[3], (0, 0, 0, 1)):
            raise GeometryError(
                f"the affine {affine.tolist()}",
                expected="4x4 finite numbers with the last row 0 0 0 1",
                hint="repair the header, or convert the scan again from DICOM",
            )
        steps = np.linalg.norm(affine[:3, :3], axis=0)
        # The determinant of the unit steps is 1 for a box and 0 for a flat one, whatever the spacing.
        if (steps < 1e-9).any() or abs(np.linalg.det(affine[:3, :3] / steps)) < 1e-3:
            raise GeometryError(
                f"the affine {affine.tolist()} is singular",
                expected="three independent axes",
                hint="repair the header, or convert the scan again from DICOM",
            )
        affine.setflags(write=False)
        object.__setattr__(self, "affine", affine)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(D, H, W)."""
        d, h, w = self.voxels.shape[-3:]
        return d, h, w

    @property
    def channels(self) -> int:
        """C; 1 for (D, H, W)."""
        return 1 if self.voxels.ndim == 3 else self.voxels.shape[0]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres between voxel centres along (D, H, W)."""
        d, h, w = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(d), float(h), float(w)

    @property
    def orientation(self) -> str:
        """Where W, H and D run to, to the nearest axes of the patient, as NIfTI tools write it for i, j and k: RAS."""
        order, flips = _nearest(self.affine, "LPS")
        towards = {axis: both[flip] for axis, both, flip in zip(order, ("SI", "PA", "LR"), flips, strict=True)}
        return "".join(towards[axis] for axis in (2, 1, 0))

    @property
    def oblique_degrees(self) -> float:
        """The largest angle between an axis and the one of the patient that it follows; 0 for a scan along them."""
        turned = self.oriented("LPS")
        cosines = np.diag((turned.affine[:3, :3] / np.asarray(turned.spacing))[::-1])
        return float(np.degrees(np.arccos(np.clip(cosines, -1, 1))).max())

    @property
    def voxel_ml(self) -> float:
        """The volume of one voxel in millilitres."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    def point(self, d: float, h: float, w: float) -> Array:
        """(L, P, S) millimetres of an index."""
        position: Array = (self.affine @ np.array([d, h, w, 1.0]))[:3]
        return position

    def index(self, point: Array) -> Array:
        """The (fractional) index (d, h, w) of an (L, P, S) point in millimetres."""
        index: Array = np.linalg.solve(self.affine, np.append(np.asarray(point, dtype=np.float64), 1.0))[:3]
        return index

    def with_voxels(self, voxels: Array) -> Volume:
        """The same grid with other voxels.

        Raises:
            GeometryError: when (D, H, W) differ.
        """
        if voxels.shape[-3:] != self.voxels.shape[-3:]:
            raise GeometryError(f"voxels of shape {voxels.shape}", expected=f"the grid {self.shape}", hint="same grid")
        return replace(self, voxels=voxels)

    def to_lps(self) -> Volume:
        """The same voxels with D nearest to S, H to P and W to L, each in the positive direction: `oriented("LPS")`."""
        return self.oriented("LPS")

    def oriented(self, code: str) -> Volume:
        """The same voxels with W, H and D running nearest to where the three letters of `code` say, such as RAS.

        An exact permutation and flip: no value and no position changes. `like` is its inverse.
        """
        order, flips = _nearest(self.affine, code)
        return self._permuted(order, flips)

    def like(self, other: Volume) -> Volume:
        """These voxels in the axis order and direction of `other`.

        Raises:
            GeometryError: when this grid is not a permutation and flip of the other.
        """
        steps = np.linalg.solve(self.affine[:3, :3], other.affine[:3, :3])
        order = tuple(int(axis) for axis in np.abs(steps).argmax(axis=0))
        flips = tuple(bool(steps[axis, column] < 0) for column, axis in enumerate(order))
        if sorted(order) == [0, 1, 2]:
            turned = self._permuted(order, flips)
            if turned.shape == other.shape and np.allclose(turned.affine, other.affine, rtol=0, atol=1e-3):
                # Bit for bit the other's affine: floating point must not move the labels off their scan.
                return replace(turned, affine=other.affine, calibrated=other.calibrated, source=other.source)
        raise GeometryError(
            f"a grid of {self.shape} at {self.point(0, 0, 0).round(2).tolist()} mm",
            expected=f"the same voxels as the grid of {other.shape} at {other.point(0, 0, 0).round(2).tolist()} mm",
            hint="give labels that were drawn on this scan",
        )

    def _permuted(self, order: tuple[int, ...], flips: tuple[bool, ...]) -> Volume:
        """Axis i of the result is axis order[i] of this, reversed where flips[i]."""
        lead = self.voxels.ndim - 3
        voxels = self.voxels.transpose(*range(lead), *(lead + axis for axis in order))
        affine = np.array(self.affine)
        affine[:3, :3] = affine[:3, list(order)]
        for axis, flip in enumerate(flips):
            if flip:
                voxels = np.flip(voxels, lead + axis)
                affine[:3, 3] += affine[:3, axis] * (voxels.shape[lead + axis] - 1)
                affine[:3, axis] *= -1
        return replace(self, voxels=voxels, affine=affine)


_TOWARDS = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1)}


def _nearest(affine: Array, code: str) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """The permutation and flips that bring (W, H, D) nearest to the directions of a code: the best of all six."""
    unit = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    # For D, H and W: the patient axis, as a row of the affine, that it should follow, and in which direction.
    rows, signs = zip(*(_TOWARDS[letter] for letter in reversed(code)), strict=True)
    best = max(permutations(range(3)), key=lambda order: float(np.abs(unit[rows, order]).sum()))
    flips = tuple(bool(unit[row, axis] * sign < 0) for row, sign, axis in zip(rows, signs, best, strict=True))
    return best, flips
