"""Reading, running and stitching in three threads: the same bits, no thread left behind, no memory for each window."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medattn_edge.errors import BackendError
from medattn_edge.inference import SegmentSettings, prepare, segment
from medattn_edge.inference.handover import consume_in_thread, prefetch
from medattn_edge.inference.sliding_window import sliding_window
from tests.support import ROOT

Make = Callable[..., Any]


@pytest.fixture(autouse=True)
def _no_thread_stays() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(*[st.integers(2, 20)] * 3),
    st.sampled_from([(6, 7), (4, 6, 5), (9, 8, 10)]),
    st.sampled_from([0.0, 0.3, 0.5, 0.75]),
    st.tuples(st.integers(1, 7), st.booleans()),
    st.sampled_from([None, 0.6, 1.0, 1.7]),
    st.sampled_from([1, 3]),
)
def test_threads_change_no_bit(  # noqa: PLR0913
    fake: Make, spec_of: Make, volume_of: Make, network: Make, shape: Any, patch: Any, overlap: float, batch: Any,
    spacing: Any, classes: int,
) -> None:  # fmt: skip
    spec = spec_of(patch, classes, spacing=None if spacing is None else (spacing,) * len(patch))
    volume = volume_of(np.random.default_rng(0).normal(size=shape))
    session = fake(spec, network(classes), batch=batch[0] if batch[1] else None, attention=network(1))
    wanted = SegmentSettings(overlap, batch[0], probabilities=True, attention=True, threaded=False)
    alone, threaded = (segment(session, volume, settings=replace(wanted, threaded=way)) for way in (False, True))
    for name in ("labels", "probabilities", "attention"):
        assert getattr(alone, name).voxels.tobytes() == getattr(threaded, name).voxels.tobytes()
    for way in (False, True):  # labels alone are made without the maps
        labels = segment(session, volume, settings=SegmentSettings(overlap, batch[0], threaded=way)).labels
        np.testing.assert_array_equal(labels.voxels, alone.labels.voxels)


def test_the_session_runs_in_the_thread_of_the_caller(fake: Make, spec_of: Make, volume_of: Make) -> None:
    """A GPU belongs to a thread, and so does Ctrl-C."""
    threads = set()

    def look(patches: np.ndarray) -> np.ndarray:
        threads.add(threading.current_thread())
        return patches

    segment(fake(spec_of((8, 8), 1), look), volume_of(np.random.default_rng(0).normal(size=(3, 12, 12))))
    assert threads == {threading.current_thread()}


@pytest.mark.parametrize("threaded", [True, False])
@pytest.mark.parametrize("error", [BackendError("no more", hint="-"), KeyboardInterrupt(), MemoryError()])
@pytest.mark.parametrize("at", [1, 2, 9])
def test_an_error_of_the_session_is_raised_as_itself(
    fake: Make, spec_of: Make, volume_of: Make, threaded: bool, error: BaseException, at: int
) -> None:
    runs = 0

    def fail(patches: np.ndarray) -> np.ndarray:
        nonlocal runs
        runs += 1
        if runs == at:
            raise error
        return patches

    volume = volume_of(np.random.default_rng(0).normal(size=(9, 12, 12)))
    with pytest.raises(type(error)) as caught:
        segment(fake(spec_of((4, 6, 6), 1), fail), volume, settings=SegmentSettings(batch=1, threaded=threaded))
    assert caught.value is error


@pytest.mark.parametrize("spacing", [None, (0.7, 0.7)])
def test_an_error_while_labelling_stops_the_session(fake: Make, spec_of: Make, volume_of: Make, spacing: Any) -> None:
    session = fake(spec_of((8, 8), 2, spacing=spacing), lambda patches: np.repeat(patches, 2, 1) * np.float32("nan"))
    volume = volume_of(np.random.default_rng(0).normal(size=(200, 8, 8)))
    with pytest.raises(BackendError, match="not finite"):
        segment(session, volume, settings=SegmentSettings(batch=1))
    assert len(session.seen) < 100


def test_an_error_of_the_progress_is_raised_as_itself(fake: Make, spec_of: Make, volume_of: Make) -> None:
    class Odd(Exception):
        pass

    def said(done: int, total: int) -> None:
        if done > 2:
            raise Odd

    with pytest.raises(Odd):
        segment(fake(spec_of((8, 8), 1), np.copy), volume_of(np.ones((9, 8, 8))), progress=said)


CTRL_C = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background job has not
sys.path.insert(0, {folder!r})
import numpy as np
from tests.support.sessions import FakeSession, make_spec, make_volume
from medattn_edge.inference import SegmentSettings, segment

def slow(patches):
    sys.stdout.write("running\\n"); sys.stdout.flush()
    time.sleep(0.05)
    return patches

volume = make_volume(np.random.default_rng(0).normal(size=(10000, 8, 8)))
segment(FakeSession(make_spec((8, 8), 1), slow), volume, settings=SegmentSettings(batch=1))
"""


def test_ctrl_c_ends_it_at_once() -> None:
    code = CTRL_C.format(folder=str(ROOT))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        child.send_signal(signal.SIGINT)
        started = time.monotonic()
        _, said = child.communicate(timeout=60)
    assert time.monotonic() - started < 30  # the scan would take minutes
    assert said.rstrip().endswith(b"KeyboardInterrupt")


@pytest.mark.parametrize("threaded", [True, False])
def test_a_window_allocates_nothing(fake: Make, spec_of: Make, network: Make, threaded: bool) -> None:
    """From one run of the session to the next, where no slab is done: numpy's own iterators take 64 KiB at a time."""
    patch, classes = (32, 64, 64), 2
    image = np.random.default_rng(0).normal(size=(1, 32, 192, 192)).astype(np.float32)
    answer = network(classes)(image[None, :, :, :64, :64])
    most: list[int] = []

    def measured(patches: np.ndarray) -> np.ndarray:
        now, peak = tracemalloc.get_traced_memory()
        most.append(peak - since[0])
        since[0] = now
        tracemalloc.reset_peak()
        return answer

    class Bare(fake):  # type: ignore[misc,valid-type]
        """No copies of its own."""

        def _run(self, patches: np.ndarray) -> np.ndarray:
            return self.function(patches)

    windows = sliding_window(Bare(spec_of(patch, classes), measured), image, 0.5, 1)
    since = [0]
    tracemalloc.start()

    def use(answers: Any) -> None:
        for _ in windows.stitched(answers):
            pass

    if threaded:
        consume_in_thread(windows.answers(prefetch(windows.batches())), use)
    else:
        use(windows.answers(windows.batches()))
    tracemalloc.stop()
    assert len(most) == 25
    assert max(most[4:]) < answer[0, 0].nbytes / 3, most


@pytest.mark.parametrize("axes", ["DHW", "HDW", "WHD"])
@pytest.mark.parametrize("spacing", [(2.0, 1.5, 1.5), (3.0, 2.0, 2.0), (0.5, 2.0, 0.7)])
def test_a_scan_is_resampled_without_a_second_image_of_its_size(
    spec_of: Make, volume_of: Make, axes: str, spacing: Any
) -> None:
    volume = volume_of(np.random.default_rng(0).integers(-999, 999, (48, 96, 96), np.int16))
    tracemalloc.start()
    image = prepare(volume, spec_of((1, 1, 1), axes=axes, spacing=spacing)).image
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    scan = 4 * volume.voxels.size
    assert peak < image.nbytes + max(image.nbytes, 0.9 * scan) + 4 * 2**20
