"""The batch is what the session itself was fastest with."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from medattn_edge.errors import UsageError
from medattn_edge.inference import Settings, segment
from medattn_edge.inference.batch import SIZES, tuned_batch

Make = Callable[..., Any]


def sleeping(fake: Make, spec: Any, a_run: float, a_window: float, batch: int | None = None) -> Any:
    """A session whose time is known."""

    class Sleeping(fake):  # type: ignore[misc,valid-type]
        def _run(self, patches: np.ndarray) -> np.ndarray:
            time.sleep(a_run + a_window * len(patches))
            return super()._run(patches)

    return Sleeping(spec, np.copy, batch=batch)


IMAGE = np.random.default_rng(0).normal(size=(1, 4, 16, 16)).astype(np.float32)


def test_a_cost_of_every_run_asks_for_the_largest_batch(fake: Make, spec_of: Make) -> None:
    assert tuned_batch(sleeping(fake, spec_of((8, 8), 1), 0.05, 0.0), IMAGE) == SIZES[-1]


def test_a_cost_of_every_window_asks_for_one_at_a_time(fake: Make, spec_of: Make) -> None:
    session = sleeping(fake, spec_of((8, 8), 1), 0.0, 0.02)
    session._run = lambda patches, run=session._run: (time.sleep(0.02 * (len(patches) - 1)), run(patches))[1]
    assert tuned_batch(session, IMAGE) == 1


def test_no_batch_is_larger_than_the_scan(fake: Make, spec_of: Make) -> None:
    image = IMAGE[:, :3, :8, :8]
    assert tuned_batch(sleeping(fake, spec_of((8, 8), 1), 0.02, 0.0), image) == 2


def test_a_fixed_batch_is_not_measured(fake: Make, spec_of: Make) -> None:
    session = fake(spec_of((8, 8), 1), np.copy, batch=3)
    assert tuned_batch(session, IMAGE) == 3
    assert session.seen == []


@pytest.mark.parametrize(("patch", "expected"), [((8, 8), 4), ((2, 8, 8), 1)])
def test_slices_go_four_at_a_time_and_blocks_one_by_one(
    fake: Make, spec_of: Make, volume_of: Make, patch: Any, expected: int
) -> None:
    session = fake(spec_of(patch, 1), np.copy)
    assert segment(session, volume_of(IMAGE[0])).walked.batch == expected
    assert session.seen[0] == expected


def test_segment_measures_on_request_and_says_it(fake: Make, spec_of: Make, volume_of: Make) -> None:
    session = sleeping(fake, spec_of((8, 8), 1), 0.03, 0.0)
    volume = volume_of(IMAGE[0])
    found = segment(session, volume, settings=Settings(batch="auto"))
    assert found.walked.batch == SIZES[-1]
    np.testing.assert_array_equal(found.labels.voxels, segment(session, volume).labels.voxels)
    with pytest.raises(UsageError, match="--batch"):
        segment(session, volume, settings=Settings(batch=0))
