"""Streaming gives what stitching the whole scan gives, in the memory of one slab."""

from __future__ import annotations

import threading
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medattn_edge.backends.session import Session
from medattn_edge.errors import BackendError, ShapeError, UsageError
from medattn_edge.inference.sliding_window import slabs
from medattn_edge.inference.tiling import Tiling, gaussian
from tests.support.sessions import FakeSession

Make = Callable[..., Any]
OVERLAPS = st.sampled_from([0.0, 0.2, 0.5, 0.75])
SHAPES = st.tuples(*[st.integers(1, 40)] * 3)


def stitched(session: Session, image: np.ndarray, overlap: float) -> np.ndarray:
    """The straightforward way: sums of K x image, window after window."""
    tiling = Tiling(image.shape[1:], session.spec.patch, overlap)
    total = np.zeros((session.spec.outputs, *image.shape[1:]), np.float32)
    for window in tiling.windows:
        patch = np.empty((image.shape[0], *tiling.patch), np.float32)
        patch[...] = image.min(axis=(1, 2, 3), keepdims=True)
        tiling.read(image, window, patch)
        logits = session.run(patch.reshape(1, -1, *session.spec.patch)).reshape(-1, *tiling.patch)
        weights = tiling.weights(window)
        inside = logits[(slice(None), *tiling.inside)]
        total[(slice(None), *tiling.area(window))] += inside * (np.float32(1) if weights is None else weights)
    return total


def whole(stream: Any) -> np.ndarray:
    return np.concatenate([slab.logits for slab in stream], axis=1)


@st.composite
def cases(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], float]:
    patch = draw(st.one_of(st.tuples(*[st.integers(6, 24)] * 2), st.tuples(*[st.integers(8, 24)] * 3)))
    # Much overlap of small windows is many windows: the sizes are bounded, not the arithmetic.
    overlap = draw(OVERLAPS if len(patch) == 3 else st.sampled_from([0.0, 0.5]))
    return draw(SHAPES if len(patch) == 3 else st.tuples(st.integers(1, 6), *[st.integers(1, 40)] * 2)), patch, overlap


@settings(max_examples=60, deadline=None)
@given(cases(), st.integers(1, 7), st.booleans(), st.sampled_from([1, 3]))
def test_streaming_equals_stitching_bit_for_bit(
    fake: Make, spec_of: Make, network: Make, case: Any, batch: int, fixed: bool, classes: int
) -> None:
    shape, patch, overlap = case
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    plain = fake(spec_of(patch, classes), network(classes))
    session = fake(plain.spec, plain.function, batch=batch if fixed else None)
    np.testing.assert_array_equal(
        whole(slabs(session, image, overlap, 4 if fixed else batch)), stitched(plain, image, overlap)
    )


@pytest.mark.parametrize("patch", [(8, 8), (7, 8, 9)])
def test_the_batch_never_changes_a_bit(fake: Make, spec_of: Make, network: Make, patch: tuple[int, ...]) -> None:
    image = np.random.default_rng(1).normal(size=(1, 11, 17, 13)).astype(np.float32)
    spec = spec_of(patch)
    first = whole(slabs(fake(spec, network(3)), image, 0.5, 1))
    for batch in range(1, 8):
        np.testing.assert_array_equal(first, whole(slabs(fake(spec, network(3)), image, 0.5, batch)))
        session = fake(spec, network(3), batch=batch)
        np.testing.assert_array_equal(first, whole(slabs(session, image, 0.5)))
        assert set(session.seen) == {batch}


@settings(max_examples=30, deadline=None)
@given(SHAPES, st.tuples(*[st.integers(8, 24)] * 3), OVERLAPS)
def test_every_row_comes_once_and_in_order(
    fake: Make, spec_of: Make, shape: tuple[int, ...], patch: tuple[int, ...], overlap: float
) -> None:
    stream = list(slabs(fake(spec_of(patch, 1), np.copy), np.zeros((1, *shape), np.float32), overlap))
    rows = [slab.start + row for slab in stream for row in range(slab.logits.shape[1])]
    assert rows == list(range(shape[0]))


@settings(max_examples=30, deadline=None)
@given(cases())
def test_a_network_that_returns_its_input_gives_the_image_back(fake: Make, spec_of: Make, case: Any) -> None:
    shape, patch, overlap = case
    image = np.random.default_rng(2).normal(size=(1, *shape)).astype(np.float32)
    found = whole(slabs(fake(spec_of(patch, 1), np.copy), image, overlap))
    np.testing.assert_allclose(found, image, rtol=0, atol=1e-5)
    if overlap == 0 and all(size % side == 0 for size, side in zip(shape[-len(patch) :], patch, strict=True)):
        np.testing.assert_array_equal(found, image)


def test_the_answer_is_the_textbook_gaussian_average(fake: Make, spec_of: Make, network: Make) -> None:
    image = np.random.default_rng(3).normal(size=(1, 14, 15, 16)).astype(np.float32)
    session = fake(spec_of((6, 7, 8)), network(3))
    tiling, bell = Tiling(image.shape[1:], (6, 7, 8), 0.5), gaussian((6, 7, 8))
    total, weight = np.zeros((3, *image.shape[1:])), np.zeros(image.shape[1:])
    for window in tiling.windows:
        area = tiling.area(window)
        patch = np.ascontiguousarray(image[None][(slice(None), slice(None), *area)])
        total[(slice(None), *area)] += bell * session.run(patch)[0]
        weight[area] += bell
    np.testing.assert_allclose(whole(slabs(session, image, 0.5)), total / weight, atol=1e-5)


def test_a_small_scan_lies_in_the_middle_of_its_minimum(fake: Make, spec_of: Make) -> None:
    image = np.arange(2, 14, dtype=np.float32).reshape(1, 1, 3, 4)
    seen: list[np.ndarray] = []

    def look(patches: np.ndarray) -> np.ndarray:
        seen.append(patches.copy())
        return patches

    found = whole(slabs(fake(spec_of((6, 8), 1), look), image))
    expected = np.full((6, 8), 2, np.float32)
    expected[1:4, 2:6] = image[0, 0]
    np.testing.assert_array_equal(seen[0][0, 0], expected)
    np.testing.assert_array_equal(found, image)


def test_the_last_run_of_a_fixed_batch_is_filled_with_its_last_window(fake: Make, spec_of: Make) -> None:
    seen: list[np.ndarray] = []

    def look(patches: np.ndarray) -> np.ndarray:
        seen.append(patches.copy())
        return patches

    image = np.ones((1, 5, 8, 8), np.float32) * np.arange(5, dtype=np.float32)[:, None, None]
    found = whole(slabs(fake(spec_of((8, 8), 1), look, batch=3), image))
    assert [patch.max() for patch in np.concatenate(seen)] == [0, 1, 2, 3, 4, 4]
    np.testing.assert_array_equal(found, image)


def test_attention_is_stitched_like_logits(fake: Make, spec_of: Make, network: Make) -> None:
    image = np.random.default_rng(4).normal(size=(1, 9, 10, 11)).astype(np.float32)
    session = fake(spec_of((4, 5, 6)), network(3), attention=network(1))
    stream = list(slabs(session, image, 0.5, 3, attention=True))
    np.testing.assert_array_equal(whole(stream), whole(slabs(session, image, 0.5)))
    maps = np.concatenate([slab.attention for slab in stream], axis=1)
    np.testing.assert_array_equal(maps, whole(slabs(fake(spec_of((4, 5, 6), 1), network(1)), image, 0.5)))


def test_progress_counts_windows_to_their_total(fake: Make, spec_of: Make) -> None:
    said: list[tuple[int, int]] = []
    image = np.zeros((1, 5, 8, 8), np.float32)
    list(slabs(fake(spec_of((8, 8), 1), np.copy), image, 0.5, 2, progress=lambda *counts: said.append(counts)))
    assert said == [(2, 5), (4, 5), (5, 5)]


def peak(fake: Make, spec: Any, depth: int, classes: int) -> int:
    """Bytes at the worst moment of covering an image that was there before."""
    image = np.zeros((1, depth, 48, 48), np.float32)
    session = fake(spec, lambda patches: np.repeat(patches, classes, axis=1))
    tracemalloc.start()
    try:
        for slab in slabs(session, image, 0.5, 2):
            del slab
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("patch", [(24, 24), (16, 24, 24)])
def test_memory_does_not_grow_with_the_scan(fake: Make, spec_of: Make, patch: tuple[int, ...]) -> None:
    classes = 32
    short, long = (peak(fake, spec_of(patch, classes), depth, classes) for depth in (64, 256))
    assert long < 1.05 * short + 200_000  # the list of windows, some 70 bytes for each
    assert long < classes * 256 * 48 * 48 * 4 / 3  # a third of the K x image that is never made


def test_an_image_or_a_batch_that_does_not_fit_is_refused_at_once(fake: Make, spec_of: Make) -> None:
    session = fake(spec_of((8, 8), 1), np.copy)
    with pytest.raises(ShapeError, match="prepare"):
        slabs(session, np.zeros((2, 4, 8, 8), np.float32))
    with pytest.raises(UsageError, match="--batch"):
        slabs(session, np.zeros((1, 4, 8, 8), np.float32), batch=0)
    with pytest.raises(UsageError, match="--overlap"):
        slabs(session, np.zeros((1, 4, 8, 8), np.float32), overlap=1.0)


class Counted(FakeSession):
    """A session that takes several runs at once, the later ones the quicker, and knows how many it had."""

    most = running = 0

    def __init__(self, plain: FakeSession, depth: int, fails: int = -1) -> None:
        super().__init__(plain.spec, plain.function)
        self.in_flight, self._fails, self._guard, self._started = depth, fails, threading.Lock(), 0

    def _run(self, patches: np.ndarray) -> np.ndarray:
        with self._guard:
            number, self._started = self._started, self._started + 1
            self.running += 1
            self.most = max(self.most, self.running)
        try:
            time.sleep(0.02 if number % 2 == 0 else 0.002)
            if number == self._fails:
                raise BackendError("run failed")
            return super()._run(patches)
        finally:
            with self._guard:
                self.running -= 1


@pytest.mark.parametrize("depth", [2, 3])
def test_several_runs_at_once_never_change_a_bit(fake: Make, spec_of: Make, network: Make, depth: int) -> None:
    image = np.random.default_rng(3).normal(size=(1, 9, 40, 31)).astype(np.float32)
    plain = fake(spec_of((16, 16)), network(3))
    session, seen = Counted(plain, depth), list[tuple[int, int]]()
    found = whole(slabs(session, image, 0.5, 2, progress=lambda done, total: seen.append((done, total))))
    np.testing.assert_array_equal(found, whole(slabs(plain, image, 0.5, 2)))
    assert session.most == depth
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1][0] == seen[-1][1]


def test_a_run_that_fails_beside_another_is_raised_and_none_goes_on(fake: Make, spec_of: Make, network: Make) -> None:
    image = np.zeros((1, 9, 40, 31), np.float32)
    session = Counted(fake(spec_of((16, 16)), network(3)), 2, fails=3)
    with pytest.raises(BackendError, match="run failed"):
        whole(slabs(session, image, 0.5, 1))
    assert session.running == 0
