"""Sliding window: a network's logits for a whole image, slab by slab, in the memory of one slab."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from medattn_edge.backends.session import Session
from medattn_edge.errors import ShapeError, UsageError
from medattn_edge.inference.resample import Floats
from medattn_edge.inference.tiling import Tiling, Window

Progress = Callable[[int, int], None]  # windows done, windows in all


@dataclass(frozen=True, eq=False)
class Slab:
    """Finished rows of the first spatial axis: logits float32 (K, d, ...) and, if asked for, attention (A, d, ...)."""

    start: int
    logits: Floats
    attention: Floats | None = None


def slabs(
    session: Session,
    image: Floats,
    overlap: float = 0.5,
    batch: int = 4,
    attention: bool = False,
    progress: Progress | None = None,
) -> Iterator[Slab]:
    """Logits of an image float32 (C, *three axes), in order along its first spatial axis, every row once.

    Windows of the size session.spec.patch, overlapping by the fraction `overlap`, averaged with Gaussian weights; an
    image smaller than the patch is surrounded by its minimum and cropped back. batch: windows per run, unless the
    session has a fixed one (then the last run is filled up with zeros). Nothing depends on it but speed: windows are
    summed in one fixed order. A voxel that one window covers gets the network's own logits, bit for bit.
    Memory: (K + A) x the patch's rows x plane, whatever the length of the image.
    Raises ShapeError for an image of other channels, UsageError for a batch or an overlap that cannot be.
    """
    spec = session.spec
    if image.ndim != 4 or image.shape[0] != spec.in_channels or image.dtype != np.float32:
        raise ShapeError(
            f"an image of shape {image.shape}, {image.dtype}",
            expected=f"float32 ({spec.in_channels}, D, H, W)",
            hint="prepare(volume, spec) makes it",
        )
    if batch < 1:
        raise UsageError(f"a batch of {batch}", expected="at least 1", hint="--batch 1")
    tiling = Tiling(image.shape[1:], spec.patch, overlap)
    answers = _answers(session, image, tiling, _Run(session.batch or batch, attention, progress))
    return _stitched(answers, tiling, spec.outputs, len(session.attention_names) if attention else 0)


@dataclass(frozen=True)
class _Run:
    batch: int
    attention: bool
    progress: Progress | None


def _answers(
    session: Session, image: Floats, tiling: Tiling, run: _Run
) -> Iterator[tuple[Window, Floats, Floats | None]]:
    """Each window with its logits (K, *tiling.patch) and attention (A, *tiling.patch), in order."""
    channels, windows = image.shape[0], tiling.windows
    patches = np.empty((min(run.batch, session.batch or len(windows)), channels, *tiling.patch), np.float32)
    if tiling.size != tiling.patch:
        patches[...] = tiling.background(image)  # reading a window leaves the margins alone
    for first in range(0, len(windows), run.batch):
        part = windows[first : first + run.batch]
        for slot, window in enumerate(part):
            tiling.read(image, window, patches[slot])
        if session.batch is not None:
            patches[len(part) :] = 0
        given = patches[: session.batch or len(part)]
        given = given.reshape(len(given), channels, *session.spec.patch)
        logits, maps = session.run_with_attention(given) if run.attention else (session.run(given), None)
        if run.progress is not None:
            run.progress(first + len(part), len(windows))
        logits = logits.reshape(*logits.shape[:2], *tiling.patch)
        maps = maps if maps is None else maps.reshape(*maps.shape[:2], *tiling.patch)
        for slot, window in enumerate(part):
            yield window, logits[slot], None if maps is None else maps[slot]


def _stitched(
    answers: Iterator[tuple[Window, Floats, Floats | None]], tiling: Tiling, classes: int, maps: int
) -> Iterator[Slab]:
    rows = _OpenRows(classes + maps, tiling)
    for window, logits, attention in answers:
        if window[0] > rows.first:  # no later window reaches the rows before this one
            yield rows.close(window[0], classes)
        weights = tiling.weights(window)
        rows.add(logits, slice(0, classes), window, weights)
        if attention is not None:
            rows.add(attention, slice(classes, None), window, weights)
    yield rows.close(tiling.shape[0], classes)


class _OpenRows:
    """Sums for the rows that a window may still reach: a ring as long as the patch along the first axis."""

    def __init__(self, channels: int, tiling: Tiling) -> None:
        self.first, self.length, self._tiling = 0, tiling.size[0], tiling
        self._sums = np.zeros((channels, self.length, *tiling.shape[1:]), np.float32)
        self._weighted = np.empty((channels, *tiling.size), np.float32)

    def add(self, answer: Floats, channels: slice, window: Window, weights: Floats | None) -> None:
        answer = answer[:, *self._tiling.inside]
        turn = window[0] % self.length
        ring = ((slice(turn, None), slice(0, self.length - turn)), (slice(0, turn), slice(self.length - turn, None)))
        with np.errstate(invalid="ignore", over="ignore"):  # logits that are not finite stay so and are reported later
            if weights is not None:
                answer = np.multiply(answer, weights, out=self._weighted[channels])
            for target, source in ring:
                self._sums[channels, target, *self._tiling.area(window)[1:]] += answer[:, source]

    def close(self, until: int, classes: int) -> Slab:
        """The rows from `first` to `until`, which then make room for the next."""
        ring = np.arange(self.first, until) % self.length
        done, start = self._sums[:, ring], self.first
        self._sums[:, ring] = 0
        self.first = until
        return Slab(start, done[:classes], done[classes:] if done.shape[0] > classes else None)
