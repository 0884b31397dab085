"""How many windows to give a session at once, measured with the session itself."""

from __future__ import annotations

import os
from time import perf_counter
from typing import Literal

import numpy as np

from medattn_edge.backends.session import Session
from medattn_edge.inference.handover import PLACES
from medattn_edge.inference.resample import Floats
from medattn_edge.inference.sliding_window import walk

Batch = int | Literal["auto"] | None
# Four slices at once are a third faster than one by one. Four blocks are hardly faster, and take the memory of four.
STANDARD = {2: 4, 3: 1}
SIZES = (1, 2, 4, 8)
WORTH = 0.97  # a larger batch must save this much of a window's time, or noise would decide
_REPEATS = 3
_SHARE_OF_MEMORY = 8  # patches and logits may take one part in this many of the memory that is free


def batch_for(session: Session, image: Floats, overlap: float, asked: Batch) -> int:
    """Windows per run: as many as are asked for, None STANDARD by the patch's axes, "auto" what `tuned_batch` finds."""
    if asked == "auto":
        return tuned_batch(session, image, overlap)
    return STANDARD[session.spec.dims] if asked is None else asked


def tuned_batch(session: Session, image: Floats, overlap: float = 0.5) -> int:
    """The fastest of SIZES per window for a session on an image's first windows; the session's own where it is fixed.

    Goes up while a larger batch pays, the scan has as many windows, and they fit a part of the free memory. The best of
    three runs counts, after one that is not timed: the time of twelve windows where one at a time is best.
    Raises what `walk` raises.
    """
    if session.batch is not None:
        return session.batch
    best, least = 1, float("inf")
    for size in SIZES:
        way = walk(session, image, overlap, size)
        if size > 1 and (size > len(way.tiling.windows) or not _fits(session, size)):
            break
        patches = next(way.batches())
        session.run(patches)
        took = min(_seconds(session, patches) for _ in range(_REPEATS)) / size
        if took > WORTH * least:
            break
        best, least = size, took
    return best


def _seconds(session: Session, patches: Floats) -> float:
    start = perf_counter()
    session.run(patches)
    return perf_counter() - start


def _fits(session: Session, size: int) -> bool:
    spec = session.spec
    needed = 4 * PLACES * size * (spec.in_channels + spec.outputs) * int(np.prod(spec.patch))
    return needed < os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / _SHARE_OF_MEMORY
