"""Orientation: which way the axes of what a network sees run through the patient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from medattn_edge.errors import UsageError

# The letters of one patient axis: towards the left or the right, the back or the front, the head or the feet.
_PAIRS: Final = ("LR", "PA", "SI")
# Plane -> the patient axes of W, H and D; a 2-D network sees slices along D.
PLANES: Final[Mapping[str, tuple[int, int, int]]] = {
    "axial": (0, 1, 2),
    "coronal": (0, 2, 1),
    "sagittal": (1, 2, 0),
}


def patient_axes(code: str) -> tuple[int, int, int]:
    """The patient axis (0 left-right, 1 back-front, 2 head-feet) of each letter; raises UsageError for no code."""
    axes = tuple(next((axis for axis, pair in enumerate(_PAIRS) if letter in pair), -1) for letter in code)
    if len(code) != 3 or sorted(axes) != [0, 1, 2]:
        raise UsageError(
            f"the orientation {code!r} is none",
            expected="three letters, one of L or R, one of P or A, one of S or I: where W, H and D run to",
            hint="--orientation RAS",
        )
    return axes[0], axes[1], axes[2]


def plane_of(code: str) -> str:
    """The plane of the slices along D: axial, coronal or sagittal."""
    return {2: "axial", 1: "coronal", 0: "sagittal"}[patient_axes(code)[2]]


def with_plane(code: str, plane: str) -> str:
    """The directions of an orientation, with its letters ordered so that slices along D are of another plane."""
    if plane not in PLANES:
        raise UsageError(f"the plane {plane!r}", expected=f"one of {', '.join(PLANES)}", hint="--plane coronal")
    letters = dict(zip(patient_axes(code), code, strict=True))
    return "".join(letters[axis] for axis in PLANES[plane])
