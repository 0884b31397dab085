"""How many windows to give a session at once, measured with the session itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

import numpy as np

from medattn_edge.backends.session import Session
from medattn_edge.inference.handover import QUEUE_DEPTH
from medattn_edge.inference.resample import Floats
from medattn_edge.inference.sliding_window import sliding_window
from medattn_edge.process.memory import available_mb

Batch = int | Literal["auto"] | None
# Four slices at once are a third faster than one by one. Four blocks are hardly faster, and take the memory of four.
STANDARD = {2: 4, 3: 1}
SIZES = (1, 2, 4, 8)
_MAX_RATIO = 0.97  # a larger batch must take no more than this part of a window's time, or noise would decide
_REPEATS = 3
_MEMORY_PARTS = 8  # patches and logits may take one part in this many of the memory that is free


def batch_for(session: Session, image: Floats, overlap: float | None, requested: Batch) -> int:
    """Windows per run: as many as are requested, None STANDARD by the patch's axes, "auto" what `tuned_batch` finds."""
    if requested == "auto":
        return tuned_batch(session, image, overlap)
    return STANDARD[session.spec.dims] if requested is None else requested


def tuned_batch(
    session: Session, image: Floats, overlap: float | None = None, clock: Callable[[], float] = time.perf_counter
) -> int:
    """The fastest of SIZES per window for a session on an image's first windows; the session's own where it is fixed.

    Goes up while a larger batch pays, the scan has as many windows, and they fit a part of the free memory. The best of
    three runs counts, after one that is not timed: the time of twelve windows where one at a time is best.

    Args:
        session: what is measured.
        image: float32 (C, *three axes), as `prepare` makes it.
        overlap: of neighbouring windows; None: that of the session's spec.
        clock: seconds, by which the runs are timed.

    Raises:
        ShapeError, UsageError: as `sliding_window` does.
    """

    def seconds(patches: Floats) -> float:
        start = clock()
        session.run(patches)
        return clock() - start

    if session.batch is not None:
        return session.batch
    best, fastest = 1, float("inf")
    for size in SIZES:
        windows = sliding_window(session, image, overlap, size)
        if size > 1 and (size > len(windows.tiling.windows) or not _fits(session, size)):
            break
        patches = next(windows.batches())
        session.run(patches)
        took = min(seconds(patches) for _ in range(_REPEATS)) / size
        if took > _MAX_RATIO * fastest:
            break
        best, fastest = size, took
    return best


def _fits(session: Session, size: int) -> bool:
    spec = session.spec
    needed = 4 * QUEUE_DEPTH * size * (spec.in_channels + spec.outputs) * int(np.prod(spec.patch))
    return needed * _MEMORY_PARTS / 1e6 < available_mb()
