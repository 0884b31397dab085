"""The two ways in which a NIfTI header says where the voxels are: its sform and its qform, read and compared.

After the NIfTI-1 header (nifti1.h, R. W. Cox and others): methods 2 (qform) and 3 (sform).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Final

import numpy as np

from medattn_edge.errors import GeometryError, UsageError
from medattn_edge.volume import Array

GEOMETRIES: Final = ("sform", "qform")
_SAME_SPACING = 0.01  # of the spacing: what changes a volume by 3 %
_SAME_PLACE = 0.5  # of a voxel, between two forms that speak of the same coordinates
_ROWS = ("srow_x", "srow_y", "srow_z")
_QUATERNION = ("quatern_b", "quatern_c", "quatern_d")
_OFFSET = ("qoffset_x", "qoffset_y", "qoffset_z")
FIELDS: Final = (*_ROWS, *_QUATERNION, *_OFFSET, "sform_code", "qform_code", "xyzt_units")
"""The header's fields that say where the voxels are, apart from pixdim[0..3]."""


@dataclass(frozen=True, eq=False)
class Forms:
    """Where the voxels of a file are.

    Attributes:
        affine: 4x4 from (i, j, k, 1) to (R, A, S, 1) in the header's units.
        geometry: which form that is, "sform" or "qform".
        codes: of sform and qform; 0 for a form that is not used.
        apart: how far the other form puts the farthest corner from the one that is used, in the header's units; None
            when there is no other.
        contradiction: why both cannot be true, "" when they can.
    """

    affine: Array
    geometry: str
    codes: tuple[int, int]
    apart: float | None
    contradiction: str


def forms_of(path: Path, header: Any, shape: tuple[int, ...], geometry: str = "") -> Forms:
    """The form that decides: the one that is asked for, else the sform where it is set, as nibabel and FSL have it.

    ITK takes the qform of a template's sform, and always the spacing of pixdim: hence the comparison.

    Args:
        path: of the file, for errors.
        header: nibabel's.
        shape: (i, j, k).
        geometry: one of `GEOMETRIES`, or "" to leave it to the header.

    Raises:
        UsageError: for another geometry, or one that the header does not have.
        GeometryError: when no form is set, and when both are and contradict each other.
    """
    if geometry not in ("", *GEOMETRIES):
        raise UsageError(f"a geometry {geometry!r}", expected=" or ".join(GEOMETRIES), hint="--geometry sform")
    sform, qform = _sform(header), _qform(header)
    # A code without its form is none: some writers set the code and leave the rows at zero (ITK: no sform then).
    codes = int(header["sform_code"]) if sform is not None else 0, max(int(header["qform_code"]), 0)
    if not any(codes) and not geometry:
        raise GeometryError(
            f"{path} does not say which side is left: its sform and qform codes are 0",
            expected="a sform or qform code of 1 or more",
            hint="convert it again from DICOM, or, if a viewer shows it the right way round: python -c "
            "\"import nibabel; i = nibabel.load('in.nii.gz'); i.set_sform(i.affine, 1); i.to_filename('out.nii.gz')\"",
        )
    chosen = geometry or ("sform" if codes[0] else "qform")
    other = {"sform": qform if codes[1] else None, "qform": sform if codes[0] else None}[chosen]
    affine = {"sform": sform, "qform": qform}[chosen]
    if affine is None:
        raise UsageError(
            f"{path} has no {chosen} that can be used",
            expected="a form that the header has",
            hint=f"--geometry {'qform' if chosen == 'sform' else 'sform'}",
        )
    contradiction = _broken(header, codes)
    apart = None
    if other is not None:
        contradiction = contradiction or _contradiction(sform, qform, shape, codes)
        apart = _farthest(affine, other, shape)
    elif chosen == "sform":
        contradiction = contradiction or _against_pixdim(affine, header, shape)
    if contradiction and not geometry:
        raise GeometryError(
            f"{path} says in two ways where its voxels are, and they contradict each other: {contradiction}; "
            f"sform (code {codes[0]}): {_text(sform)}; qform (code {codes[1]}): {_text(qform)}",
            expected="a sform and a qform that agree in spacing, handedness and place",
            hint="look at the scan, and say which one is right: --geometry sform or --geometry qform; or give "
            "a file both: python -c \"import nibabel; i = nibabel.load('in.nii.gz'); i.set_sform(i.get_qform(), 1); "
            "i.to_filename('out.nii.gz')\"",
        )
    return Forms(affine, chosen, codes, apart, contradiction)


def kept_fields(header: Any) -> dict[str, Any]:
    """The fields of `FIELDS` and pixdim, as plain numbers."""
    fields = {name: np.asarray(header[name]).tolist() for name in FIELDS}
    return fields | {"pixdim": np.asarray(header["pixdim"])[:4].tolist()}


def put_fields(header: Any, fields: Mapping[str, Any]) -> None:
    """Set what `kept_fields` took, bit for bit."""
    for name in FIELDS:
        header[name] = fields[name]
    header["pixdim"][:4] = fields["pixdim"]


def _sform(header: Any) -> Array | None:
    """None when its rows are all zero or no numbers."""
    affine = np.eye(4)
    affine[:3] = [header[row] for row in _ROWS]
    return affine if np.isfinite(affine).all() and affine[:3, :3].any() else None


def _qform(header: Any) -> Array | None:
    """None when its numbers are none; a quaternion that rounding made too long is shortened, as nifti1_io does."""
    b, c, d = (float(header[name]) for name in _QUATERNION)
    pixdim = np.array(header["pixdim"][:4], dtype=np.float64)
    offset = np.array([float(header[name]) for name in _OFFSET])
    rest = 1.0 - (b * b + c * c + d * d)
    if not (np.isfinite((rest, *pixdim, *offset)).all() and rest > -1e-3 and (pixdim[1:] >= 0).all()):
        return None
    if rest < 1e-7:
        b, c, d = np.array((b, c, d)) / np.linalg.norm((b, c, d))
        rest = 0.0
    a = float(np.sqrt(rest))
    turn = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    steps = np.where(pixdim[1:] > 0, pixdim[1:], 1.0)
    affine = np.eye(4)
    affine[:3, :3] = turn * (steps * (1, 1, -1 if pixdim[0] < 0 else 1))
    affine[:3, 3] = offset
    return affine


def _broken(header: Any, codes: tuple[int, int]) -> str:
    """A form that claims to be there and is no geometry, beside one that is."""
    if codes[0] and codes[1] and _qform(header) is None:
        return "the qform has numbers that are none"
    if codes[1] and int(header["sform_code"]) > 0 and _sform(header) is None:
        rows = np.array([header[row] for row in _ROWS])
        return "" if not rows.any() else "the sform has numbers that are none"
    return ""


def _contradiction(sform: Array | None, qform: Array | None, shape: tuple[int, ...], codes: tuple[int, int]) -> str:
    """What the forms cannot both be right about, "" when they can."""
    if sform is None or qform is None:
        return ""
    one, other = (np.linalg.norm(form[:3, :3], axis=0) for form in (sform, qform))
    if _differ(one, other, shape):
        return f"spacings of {_list(one)} and {_list(other)}"
    if np.linalg.det(sform[:3, :3]) * np.linalg.det(qform[:3, :3]) < 0:
        return "left and right are exchanged"
    # Other codes are other coordinates, the scanner's and a template's: there the place may differ.
    if codes[0] == codes[1] and np.linalg.det(sform[:3, :3]):
        off = np.abs(np.linalg.solve(sform, (qform - sform) @ _corners(shape))).max()
        if off > _SAME_PLACE:
            return f"places up to {off:.1f} voxels apart"
    return ""


def _against_pixdim(sform: Array, header: Any, shape: tuple[int, ...]) -> str:
    """Without a qform, pixdim still says the spacing, and many programs read only that."""
    pixdim = np.array(header["pixdim"][1:4], dtype=np.float64)
    steps = np.linalg.norm(sform[:3, :3], axis=0)
    if np.isfinite(pixdim).all() and _differ(steps, np.where(pixdim > 0, pixdim, steps), shape):
        return f"spacings of {_list(steps)} in the sform and {_list(pixdim)} in pixdim"
    return ""


def _differ(one: Array, other: Array, shape: tuple[int, ...]) -> bool:
    axes = [axis for axis in range(3) if axis < len(shape)]
    return not np.allclose(one[axes], other[axes], rtol=_SAME_SPACING, atol=0)


def _corners(shape: tuple[int, ...]) -> Array:
    """(4, 8) indices."""
    ends = [(0, (*shape, 1, 1)[axis] - 1) for axis in range(3)]
    return np.array([(*corner, 1) for corner in product(*ends)], dtype=np.float64).T


def _farthest(one: Array, other: Array, shape: tuple[int, ...]) -> float:
    return float(np.linalg.norm(((one - other) @ _corners(shape))[:3], axis=0).max())


def _list(numbers: Array) -> str:
    return " x ".join(f"{number:.4g}" for number in numbers)


def _text(form: Array | None) -> str:
    return "none" if form is None else str([[round(value, 4) for value in row] for row in form[:3].tolist()])
