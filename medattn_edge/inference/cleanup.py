"""Cleanup: what a network's spec wants done to the labels of a scan once they are all there."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import numpy.typing as npt

from medattn_edge.errors import MissingDependency, ScanError
from medattn_edge.labels import Array, Mask, Meaning
from medattn_edge.spec import Cleanup, ModelSpec
from medattn_edge.volume import Volume

_AROUND = np.ones((3, 3, 3), bool)  # 26 neighbours, which in a single slice are 8


def check_cleanup(spec: ModelSpec) -> None:
    """Say before the work whether the cleanup of a spec can be done; raises MissingDependency without scipy."""
    if spec.cleanup and find_spec("scipy") is None:
        raise MissingDependency.of_extra("scipy", "cleanup")


def check_scan(scan: Volume, spec: ModelSpec) -> None:
    """Raise ScanError for a scan without millimetres when components are dropped by their millilitres."""
    step = next((step for step in spec.cleanup if step.ml), None)
    if step is not None and not scan.calibrated:
        raise ScanError(
            f"the network's labels are cleaned by {step}, and the scan has no voxel spacing",
            expected="millimetres, to know how large a component is",
            hint="--pixel-spacing 0.7x0.7 for a picture",
        )


def clean(labels: Array, spec: ModelSpec, voxel_ml: float) -> None:
    """Do the steps of spec.cleanup on labels (D, H, W), in place and in order; `*` is every structure by itself.

    Components have 26 neighbours, and in a single slice 8. Of components of one size the first in the array's order is
    the largest: give labels in the network's orientation, and the answer does not depend on how the scan is stored. A
    hole is what a structure encloses in three dimensions, or within a single slice. Where labels exclude each other,
    what is removed becomes background, and of a hole the background only is filled. Memory: a few times the box around
    one structure.

    Raises:
        MissingDependency: without scipy.
    """
    check_cleanup(spec)
    meaning = Meaning.of(spec)
    for step in spec.cleanup:
        for name in meaning.structures if step.label == "*" else (step.label,):
            _step(labels, meaning, step, name, voxel_ml)


def _step(labels: Array, meaning: Meaning, step: Cleanup, name: str, voxel_ml: float) -> None:
    box = _box(meaning.mask(labels, name))
    if box is None:
        return
    inside = labels[box]
    mask = meaning.mask(inside, name)
    if step.kind == "fill-holes":
        holes = _filled(mask, labels.shape[0] == 1) & ~mask
        meaning.put(inside, name, holes if meaning.overlapping else holes & (inside == 0))
        return
    components, sizes = _components(mask)
    if step.kind == "largest":
        kept = components == _largest(components, sizes)
    else:
        # A product, not a quotient: a component of exactly so many ml stays.
        kept = (sizes * voxel_ml >= step.ml * (1 - 1e-9))[components]
    meaning.remove(inside, name, mask & ~kept)


def _box(mask: Mask) -> tuple[slice, ...] | None:
    """The smallest box around a mask, None when it is empty."""
    spans = []
    for axis in range(mask.ndim):
        touched = np.flatnonzero(mask.any(axis=tuple({*range(mask.ndim)} - {axis})))
        if not touched.size:
            return None
        spans.append(slice(int(touched[0]), int(touched[-1]) + 1))
    return tuple(spans)


def _components(mask: Mask) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """The number of each voxel's component, 0 outside, and the voxels of each number; of 0 none are counted."""
    from scipy import ndimage

    components = np.empty(mask.shape, np.int32 if mask.size < 2**31 else np.int64)
    count = int(ndimage.label(mask, _AROUND, components))
    sizes = np.zeros(count + 1, np.int64)
    for plane in components:  # bincount widens what it counts to eight bytes a voxel
        found = np.bincount(plane.ravel())
        sizes[: len(found)] += found
    sizes[0] = 0
    return components, sizes


def _largest(components: npt.NDArray[np.int32], sizes: npt.NDArray[np.int64]) -> int:
    """The number of the largest component; of several the one whose first voxel comes first."""
    tied = np.flatnonzero(sizes == sizes.max())
    if len(tied) == 1:
        return int(tied[0])
    first = np.isin(components, tied).argmax()
    return int(components.ravel()[first])


def count_components(mask: Mask) -> int:
    """Components of a mask (D, H, W) of 26 neighbours; raises ImportError without scipy."""
    box = _box(mask)
    return 0 if box is None else len(_components(mask[box])[1]) - 1


def _filled(mask: Mask, flat: bool) -> Mask:
    """A mask and what it encloses: what has no way out through the faces of voxels of no mask."""
    from scipy import ndimage

    if flat:  # a scan of one slice: everything in it has a way out through its faces
        return np.asarray(ndimage.binary_fill_holes(mask[0]), bool)[None]
    return np.asarray(ndimage.binary_fill_holes(mask), bool)


def describe_after(spec: ModelSpec) -> list[str]:
    """What is done beside running the network once and taking its labels, for people: one sentence each."""
    notes = []
    if spec.mirror:
        along = ", ".join(spec.mirror)
        notes.append(f"mirrored along {along}: every window is run {2 ** len(spec.mirror)} times, the logits averaged")
    if spec.cleanup:
        notes.append("labels cleaned after the network: " + ", ".join(map(str, spec.cleanup)))
    return notes
