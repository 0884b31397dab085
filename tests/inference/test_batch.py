"""The batch is what the session itself was fastest with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from medattn_edge.errors import UsageError
from medattn_edge.inference import SegmentSettings, segment
from medattn_edge.inference.batch import SIZES, tuned_batch

Make = Callable[..., Any]


class Clock:
    """Seconds that pass only while a session runs."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def timed(fake: Make, spec: Any, clock: Clock, a_run: float, a_window: float) -> Any:
    """A session whose runs take a known time by a clock."""

    def tick(patches: np.ndarray) -> np.ndarray:  # of one window
        clock.now += a_window
        return patches.copy()

    class Timed(fake):  # type: ignore[misc,valid-type]
        def _run(self, patches: np.ndarray) -> np.ndarray:
            clock.now += a_run
            return super()._run(patches)

    return Timed(spec, tick)


IMAGE = np.random.default_rng(0).normal(size=(1, 4, 16, 16)).astype(np.float32)


@pytest.mark.parametrize(
    ("a_run", "a_window", "best"),
    [(0.05, 0.0, SIZES[-1]), (0.05, 0.01, SIZES[-1]), (0.0, 0.02, 1), (0.002, 0.02, 2), (0.0004, 0.02, 1)],
)
def test_the_batch_grows_as_long_as_a_window_gets_cheaper(
    fake: Make, spec_of: Make, a_run: float, a_window: float, best: int
) -> None:
    clock = Clock()
    assert tuned_batch(timed(fake, spec_of((8, 8), 1), clock, a_run, a_window), IMAGE, clock=clock) == best


def test_no_batch_is_larger_than_the_scan(fake: Make, spec_of: Make) -> None:
    image, clock = IMAGE[:, :3, :8, :8], Clock()
    assert tuned_batch(timed(fake, spec_of((8, 8), 1), clock, 0.02, 0.0), image, clock=clock) == 2


def test_a_fixed_batch_is_not_measured(fake: Make, spec_of: Make) -> None:
    session = fake(spec_of((8, 8), 1), np.copy, batch=3)
    assert tuned_batch(session, IMAGE) == 3
    assert session.seen == []


@pytest.mark.parametrize(("patch", "expected"), [((8, 8), 4), ((2, 8, 8), 1)])
def test_slices_go_four_at_a_time_and_blocks_one_by_one(
    fake: Make, spec_of: Make, volume_of: Make, patch: Any, expected: int
) -> None:
    session = fake(spec_of(patch, 1), np.copy)
    assert segment(session, volume_of(IMAGE[0])).windows.batch == expected
    assert session.seen[0] == expected


def test_segment_measures_on_request_and_says_it(fake: Make, spec_of: Make, volume_of: Make) -> None:
    session, volume = fake(spec_of((8, 8), 1), np.copy), volume_of(IMAGE[0])
    found = segment(session, volume, settings=SegmentSettings(batch="auto"))
    measured = [size for index, size in enumerate(session.seen) if size not in session.seen[:index]]
    assert session.seen[:8] == [1] * 4 + [2] * 4, "each size is run once to warm up and three times to be timed"
    assert found.windows.batch in measured
    assert session.seen[-1] <= found.windows.batch
    np.testing.assert_array_equal(found.labels.voxels, segment(session, volume).labels.voxels)
    with pytest.raises(UsageError, match="--batch"):
        segment(session, volume, settings=SegmentSettings(batch=0))
