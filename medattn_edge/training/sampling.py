"""Sampling: patches of the training slices, half of them centred on an organ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medattn_edge.inference import prepare
from medattn_edge.inference.preprocess import Prepared, labels_on_image
from medattn_edge.inference.resample import Floats
from medattn_edge.inference.tiling import EVERY_CHANNEL, Tiling
from medattn_edge.spec import ModelSpec
from medattn_edge.training.cases import Case
from medattn_edge.training.split import Part, stretches

Labels = npt.NDArray[Any]
FOREGROUND_SHARE = 0.5
MAX_CENTRES = 200_000  # per label: more would not make the choice of a centre any finer


@dataclass(frozen=True, eq=False)
class Stretch:
    """Neighbouring training slices of one case, as the network sees them; views that hold nothing of a held-out slice.

    Attributes:
        image: float32 (C, *three axes).
        labels: (*three axes).
        padding: slices of background that a patch has here and no window of the whole scan would have.
    """

    image: Floats
    labels: Labels
    padding: int = 0


def training_stretches(case: Case, part: Part, spec: ModelSpec) -> list[Stretch]:
    """The training slices of a case: prepared as for inference, labels taken from the nearest voxel.

    A slice that resampling would mix from a training slice and another one is left out. Only the intensity statistics
    of a whole volume (zscore, minmax) know of held-out voxels, as they do of the voxels of a new scan.
    """
    prepared = prepare(case.scan, spec)
    labels = labels_on_image(case.labels, prepared)
    axis = prepared.order.index(0)
    runs = []
    for first, last, padding in _runs(prepared, part, spec):
        cut = tuple(slice(first, last + 1) if i == axis else slice(None) for i in range(3))
        runs.append(Stretch(prepared.image[EVERY_CHANNEL + cut], labels[cut], padding))
    return runs


def is_padded(prepared: Prepared, part: Part, spec: ModelSpec) -> bool:
    """Whether a stretch of a case's training slices is thinner than a patch, where a window of the scan is not."""
    return any(padding for _, _, padding in _runs(prepared, part, spec))


def _runs(prepared: Prepared, part: Part, spec: ModelSpec) -> list[tuple[int, int, int]]:
    """(first, last, padding) of every stretch, in slices as the network sees them."""
    axis = prepared.order.index(0)
    where, training = prepared.samples(axis), set(part.training)
    inside = [
        index
        for index, (low, high) in enumerate(zip(np.floor(where), np.ceil(where), strict=True))
        if {int(low), int(high)} <= training
    ]
    # In 2-D a patch is one slice.
    needed = min(spec.patch[axis], len(where)) if spec.dims == 3 else 1
    return [(first, last, max(0, needed - (last + 1 - first))) for first, last in stretches(inside)]


class Sampler:
    """Draws patches from stretches.

    A sample is centred, as far as the stretch's borders allow, on a voxel: for FOREGROUND_SHARE of the samples on one
    of a label that is chosen evenly among all labels, so that a small organ is seen as often as a large one; else on
    any voxel. A stretch smaller than the patch is surrounded as inference surrounds a small scan.

    Args:
        stretches: At least one.
        patch: 2 or 3 sizes.
    """

    def __init__(self, stretches: Sequence[Stretch], patch: tuple[int, ...]) -> None:
        self._stretches, self._patch = list(stretches), patch
        self._tilings = [Tiling(stretch.labels.shape, patch, 0.0) for stretch in self._stretches]
        self._ends = np.cumsum([stretch.labels.size for stretch in self._stretches])
        self._centres = _centres(self._stretches)

    @property
    def labels(self) -> frozenset[int]:
        """The labels but the background that its stretches have."""
        return frozenset(int(value) for stretch in self._stretches for value in np.unique(stretch.labels)) - {0}

    def batch(self, rng: np.random.Generator, count: int) -> tuple[Floats, npt.NDArray[np.int64]]:
        """Images float32 (N, C, *patch) and labels int64 (N, *patch)."""
        pairs = [self._read(*self._centre(rng)) for _ in range(count)]
        images, labels = (np.stack(kind) for kind in zip(*pairs, strict=True))
        return images.reshape(count, -1, *self._patch), labels.reshape(count, *self._patch).astype(np.int64)

    def _centre(self, rng: np.random.Generator) -> tuple[int, tuple[int, ...]]:
        """A stretch and a voxel in it."""
        if self._centres and rng.random() < FOREGROUND_SHARE:
            label = self._centres[int(rng.integers(len(self._centres)))]
            index, *voxel = label[int(rng.integers(len(label)))].tolist()
            return index, tuple(voxel)
        flat = int(rng.integers(self._ends[-1]))
        index = int(np.searchsorted(self._ends, flat, side="right"))
        shape = self._stretches[index].labels.shape
        start = int(self._ends[index]) - self._stretches[index].labels.size
        return index, tuple(int(i) for i in np.unravel_index(flat - start, shape))

    def _read(self, index: int, voxel: tuple[int, ...]) -> tuple[Floats, Labels]:
        stretch, tiling = self._stretches[index], self._tilings[index]
        d, h, w = (
            min(max(centre - size // 2, 0), whole - size)
            for centre, size, whole in zip(voxel, tiling.size, tiling.shape, strict=True)
        )
        image = np.empty((stretch.image.shape[0], *tiling.patch), np.float32)
        image[...] = tiling.background(stretch.image)
        tiling.read(stretch.image, (d, h, w), image)
        labels = np.zeros(tiling.patch, stretch.labels.dtype)
        labels[tiling.inside] = stretch.labels[tiling.area((d, h, w))]
        return image, labels


def _centres(runs: Sequence[Stretch]) -> list[npt.NDArray[np.int32]]:
    """Per label that is present: (n, 4), the stretch and the voxel of at most MAX_CENTRES of its voxels."""
    values = sorted({int(value) for stretch in runs for value in np.unique(stretch.labels)} - {0})
    centres = []
    for value in values:
        each = [np.argwhere(stretch.labels == value) for stretch in runs]
        rows = [np.insert(voxels, 0, index, axis=1) for index, voxels in enumerate(each)]
        every = np.concatenate(rows).astype(np.int32)
        centres.append(every[:: -(-len(every) // MAX_CENTRES)])
    return centres
