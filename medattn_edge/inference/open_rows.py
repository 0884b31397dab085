"""Sums for the rows of an image that a window may still reach."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medattn_edge.inference.resample import Floats
from medattn_edge.inference.tiling import EVERY_CHANNEL, Tiling, Window

_BLOCK_BYTES = 2**18  # of one map: what is multiplied is still in the cache when it is added


@dataclass(frozen=True, eq=False)
class Slab:
    """Finished rows of the first spatial axis: logits float32 (K, d, ...) and, if asked for, attention (A, d, ...)."""

    start: int
    logits: Floats
    attention: Floats | None = None


class OpenRows:
    """A ring as long as the patch along the first axis: (K + A) x its rows x plane, and nothing new for a window.

    first: the row where the ring begins, which is the first that no `close` has returned yet.
    """

    def __init__(self, classes: int, maps: int, tiling: Tiling) -> None:
        self.first, self._length, self._tiling, self._classes = 0, tiling.size[0], tiling, classes
        self._sums = np.zeros((classes + maps, self._length, *tiling.shape[1:]), np.float32)
        self._weights = np.empty(tiling.size, np.float32)
        self._rows = max(1, _BLOCK_BYTES // self._weights[0].nbytes)
        self._weighted = np.empty((min(self._rows, self._length), *tiling.size[1:]), np.float32)

    def add(self, logits: Floats, attention: Floats | None, window: Window) -> None:
        """One window's logits (K, *patch) and attention (A, *patch), or None: nothing, when there should be some."""
        weights = self._tiling.weights(window, self._weights)
        with np.errstate(invalid="ignore", over="ignore"):  # logits that are not finite stay so and are reported later
            for maps, sums in ((logits, self._sums[: self._classes]), (attention, self._sums[self._classes :])):
                if maps is not None:
                    self._add(maps[EVERY_CHANNEL + self._tiling.inside], sums, window, weights)

    def _add(self, maps: Floats, sums: Floats, window: Window, weights: Floats | None) -> None:
        offset, plane = window[0] % self._length, self._tiling.area(window)[1:]
        for row, stop in self._blocks(offset):
            at = (row + offset) % self._length
            for source, target in zip(maps, sums, strict=True):
                part = source[row:stop]
                if weights is not None:
                    part = np.multiply(part, weights[row:stop], out=self._weighted[: stop - row])
                into = target[at : at + stop - row][EVERY_CHANNEL + plane]
                np.add(into, part, out=into)

    def _blocks(self, offset: int) -> list[tuple[int, int]]:
        """The window's rows in parts that fit the cache and do not pass the end of the ring."""
        ends = sorted({*range(self._rows, self._length, self._rows), self._length - offset, self._length})
        return list(zip([0, *ends[:-1]], ends, strict=True))

    def close(self, until: int) -> Slab:
        """The rows from `first` to `until`, which then make room for the next."""
        ring = np.arange(self.first, until) % self._length
        done, start = self._sums[:, ring], self.first
        self._sums[:, ring] = 0
        self.first = until
        return Slab(start, done[: self._classes], done[self._classes :] if done.shape[0] > self._classes else None)
