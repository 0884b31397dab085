"""Windows that are not run: what stands for their answer, and how well that agrees with what the network says."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medattn_edge.inference.resample import Floats
from medattn_edge.labels import Meaning

CERTAIN = 20.0  # the logit of a background that nobody doubts: the others have a chance of 2e-9
ONE_IN = 16  # of the windows left out, one in so many is run all the same, to see what the network says


class Skipping:
    """Which windows of a tiling are not run; their voxels become background, also those checked.

    Attributes:
        skipped: the indices of these windows.
        checked: every ONE_INth of them, which is run all the same.
        seen: voxels looked at so far in checked windows.
        kept: those of them that the network too calls background.
    """

    def __init__(self, skipped: Sequence[int] = ()) -> None:
        self.skipped, self.checked = frozenset(skipped), frozenset(sorted(skipped)[::ONE_IN])
        self.seen = self.kept = 0

    def runs(self, index: int) -> bool:
        """Whether the network is shown this window."""
        return index not in self.skipped or index in self.checked

    def check(self, logits: Floats, meaning: Meaning) -> None:
        """Look at what the network says (K, ...) of a checked window."""
        self.seen += int(np.prod(logits.shape[1:]))
        self.kept += int((meaning.labels_of(logits) == 0).sum())

    def background(self, classes: int, patch: tuple[int, ...], meaning: Meaning) -> Floats:
        """The answer of a window that was not run, (K, *patch): a view of K numbers; of regions, none is there."""
        answer = np.zeros((classes, 1, 1, 1), np.float32)
        if meaning.overlapping or classes == 1:
            answer[:] = -CERTAIN
        else:
            answer[0] = CERTAIN
        return np.broadcast_to(answer, (classes, *patch))
