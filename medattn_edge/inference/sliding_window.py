"""Sliding window: a network's logits for a whole image, slab by slab, in the memory of one slab.

It has three parts, each a generator of its own so that they can run in threads of their own: `batches` reads
windows, `answers` runs the session, `stitched` adds up.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np

from medattn_edge.backends.session import Session
from medattn_edge.errors import ShapeError, UsageError
from medattn_edge.inference.handover import QUEUE_DEPTH
from medattn_edge.inference.open_rows import OpenRows, Slab
from medattn_edge.inference.resample import Floats
from medattn_edge.inference.skipping import Skipping
from medattn_edge.inference.tiling import EVERY_CHANNEL, Tiling, Window
from medattn_edge.labels import Meaning

Progress = Callable[[int, int], None]  # windows done, windows in total
Answer = tuple[Floats, Floats | None]  # logits (n, K, *patch) and attention (n, A, *patch) of some windows in turn
Run = tuple[int, Floats, Floats | None]  # windows, and the answer to them


@dataclass(frozen=True, eq=False)
class SlidingWindow:
    """One session shown the windows of one image.

    Attributes:
        session: the network.
        image: float32 (C, *three axes).
        tiling: the windows.
        batch: windows per run.
        attention: ask for attention maps as well.
        progress: called with the windows done and the windows in total, by the thread that runs the session.
        skipping: the windows that are not run, by default none.
        run_seconds: that were waited for each run of the session so far.
    """

    session: Session
    image: Floats
    tiling: Tiling
    batch: int
    attention: bool = False
    progress: Progress | None = None
    skipping: Skipping = field(default_factory=Skipping)
    run_seconds: list[float] = field(default_factory=list)

    def batches(self) -> Generator[Floats, None, None]:
        """Network inputs float32 (n, C, *session.spec.patch), in QUEUE_DEPTH buffers in turn."""
        windows = self._to_run()
        size = min(self.batch, max(1, len(windows)))
        shape = (size, self.image.shape[0], *self.tiling.patch)
        buffers = [np.empty(shape, np.float32) for _ in range(min(QUEUE_DEPTH, max(1, -(-len(windows) // size))))]
        if self.tiling.size != self.tiling.patch:
            background = self.tiling.background(self.image)
            for buffer in buffers:
                buffer[...] = background  # reading a window does not write the margins
        for run, first in enumerate(range(0, len(windows), size)):
            part, buffer = windows[first : first + size], buffers[run % len(buffers)]
            for slot, window in enumerate(part):
                self.tiling.read(self.image, window, buffer[slot])
            given = buffer[: len(part)]
            yield given.reshape(*given.shape[:2], *self.session.spec.patch)

    def answers(self, batches: Generator[Floats, None, None]) -> Generator[Answer, None, None]:
        """What the session says of each batch; closes the batches in the end."""
        total, done = len(self._to_run()), 0
        with closing(batches), closing(self._runs(batches)) as runs:
            for count, logits, maps in runs:
                done += count
                if self.progress is not None:
                    self.progress(done, total)
                yield logits, maps

    def _runs(self, batches: Iterator[Floats]) -> Generator[Run, None, None]:
        """Each batch's windows and answer, in order: one run after the other, or as many at once as a session takes."""
        depth = self.session.in_flight
        if depth == 1:
            for given in batches:
                start = time.perf_counter()
                answer = self._answer(given)
                self.run_seconds.append(time.perf_counter() - start)
                yield len(given), *answer
                del answer
            return
        with ThreadPoolExecutor(depth, thread_name_prefix="run") as pool:
            waiting = deque[tuple[int, Future[Answer]]]()
            for given in batches:
                # Its buffer is filled again while the run goes on.
                waiting.append((len(given), pool.submit(self._answer, given.copy())))
                if len(waiting) == depth:
                    yield self._waited(waiting)
            while waiting:
                yield self._waited(waiting)

    def _waited(self, waiting: deque[tuple[int, Future[Answer]]]) -> Run:
        count, run = waiting.popleft()
        start = time.perf_counter()
        answer = run.result()
        self.run_seconds.append(time.perf_counter() - start)
        return (count, *answer)

    def _answer(self, given: Floats) -> Answer:
        if self.attention:
            return self.session.run_any_with_attention(given)
        return self.session.run_any(given), None

    def stitched(self, answers: Iterator[Answer]) -> Generator[Slab, None, None]:
        """Every row of the image once, in order; windows are added in their order, whatever the batch."""
        classes = self.session.spec.outputs
        maps = len(self.session.attention_names) if self.attention else 0
        rows, singles = OpenRows(classes, maps, self.tiling), self._singles(answers)
        skipping, meaning = self.skipping, Meaning.of(self.session.spec)
        for index, window in enumerate(self.tiling.windows):
            if window[0] > rows.first:  # no later window reaches the rows before this one
                yield rows.close(window[0])
            if index in skipping.skipped:
                if index in skipping.checked:
                    skipping.check(next(singles)[0][EVERY_CHANNEL + self.tiling.inside], meaning)
                rows.add(skipping.background(classes, self.tiling.patch, meaning), None, window)
            else:
                rows.add(*next(singles), window)
        for _ in singles:  # whoever makes the answers arrives at its end
            pass
        yield rows.close(self.tiling.shape[0])

    def _to_run(self) -> list[Window]:
        return [window for index, window in enumerate(self.tiling.windows) if self.skipping.runs(index)]

    def _singles(self, answers: Iterator[Answer]) -> Iterator[Answer]:
        """Logits (K, *tiling.patch) and attention (A, *tiling.patch) of one window after the other."""
        for logits, maps in answers:
            for slot in range(len(logits)):
                one = logits[slot].reshape(-1, *self.tiling.patch)
                yield one, None if maps is None else maps[slot].reshape(-1, *self.tiling.patch)
            del logits, maps


def sliding_window(
    session: Session,
    image: Floats,
    overlap: float | None = None,
    batch: int = 4,
    attention: bool = False,
    progress: Progress | None = None,
) -> SlidingWindow:
    """The windows of an image, none of them skipped.

    Args:
        session: the network.
        image: float32 (C, *three axes).
        overlap: of neighbouring windows; None: that of the session's spec.
        batch: windows per run, unless the session has a fixed one (then `Session.run_any` fills the last run).
        attention: ask for attention maps as well.
        progress: called with the windows done and the windows in total, by the thread that runs the session.

    Raises:
        ShapeError: for an image of other channels.
        UsageError: for a batch or an overlap that cannot be.
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
    tiling = Tiling(image.shape[1:], spec.patch, spec.overlap if overlap is None else overlap)
    return SlidingWindow(session, image, tiling, session.batch or batch, attention, progress)


def slabs(
    session: Session,
    image: Floats,
    overlap: float | None = None,
    batch: int = 4,
    attention: bool = False,
    progress: Progress | None = None,
) -> Generator[Slab, None, None]:
    """Logits of an image float32 (C, *three axes), in order along its first spatial axis, every row once.

    Windows of the size session.spec.patch, overlapping by the fraction `overlap`, averaged with Gaussian weights; an
    image smaller than the patch is surrounded by its minimum and cropped back. Nothing depends on the batch but speed:
    windows are summed in one fixed order. A voxel that one window covers gets the network's own logits, bit for bit.
    Everything happens in the calling thread, but for the runs of a session that takes several at once.
    Memory: (K + A) x the patch's rows x plane, whatever the image's length.
    Raises what `sliding_window` raises.
    """
    windows = sliding_window(session, image, overlap, batch, attention, progress)
    return windows.stitched(windows.answers(windows.batches()))


__all__ = ["Answer", "Progress", "Slab", "SlidingWindow", "slabs", "sliding_window"]
