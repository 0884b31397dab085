"""Which windows are run, how many at once, and which are left out: each limit itself and the next value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from medattn_edge.errors import ShapeError, UsageError
from medattn_edge.inference import SegmentSettings, prepare, segment
from medattn_edge.inference import batch as batches
from medattn_edge.inference.body import hull, windows_of_air
from medattn_edge.inference.skipping import Skipping
from medattn_edge.inference.sliding_window import sliding_window
from medattn_edge.inference.tiling import Tiling, gaussian, starts
from medattn_edge.labels import Meaning
from tests.support.sessions import make_spec, make_volume

Make = Callable[..., Any]
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 32, 33])
def test_one_window_in_sixteen_of_those_left_out_is_run_all_the_same(count: int) -> None:
    left_out = [3 + 2 * number for number in reversed(range(count))]
    skipping = Skipping(left_out)
    assert skipping.checked == set(sorted(left_out)[::16])
    assert len(skipping.checked) == -(-count // 16)
    assert (skipping.seen, skipping.kept) == (0, 0)
    for window in range(70):
        assert skipping.runs(window) is (window not in left_out or window in skipping.checked)


def test_what_the_network_says_of_a_checked_window_is_counted() -> None:
    skipping, meaning = Skipping([0]), Meaning(("background", "organ"))
    logits = np.zeros((2, 3, 4, 5), np.float32)
    logits[0] = 1
    logits[1, 0, :2] = 2
    skipping.check(logits, meaning)
    skipping.check(logits, meaning)
    assert (skipping.seen, skipping.kept) == (120, 100)


def test_a_window_that_was_not_run_is_background_that_nobody_doubts() -> None:
    skipping = Skipping()
    softmax = skipping.background(3, (2, 3, 4), Meaning(("background", "a", "b")))
    assert softmax.shape == (3, 2, 3, 4)
    assert [float(channel.max()) for channel in softmax] == [20, 0, 0]
    single = skipping.background(1, (2, 3, 4), Meaning(("background", "a")))
    assert (single == -20).all()
    spec = replace(make_spec((4, 4), 3), labels=("a", "b", "c"), activation="sigmoid")
    assert (skipping.background(3, (2, 3, 4), Meaning.of(spec)) == -20).all()


def test_the_gaussian_has_an_eighth_of_the_patch_and_is_never_zero() -> None:
    assert gaussian((16,))[0] == pytest.approx(np.exp(-(7.5**2 - 0.5**2) / (2 * 2**2)))
    assert gaussian((40,), 0.01).min() == 1e-12


@pytest.mark.parametrize(
    ("size", "patch", "overlap", "expected"),
    [(10, 10, 0.5, [0]), (9, 10, 0.5, [0]), (11, 10, 0.5, [0, 1]), (15, 10, 0.5, [0, 5]), (16, 10, 0.5, [0, 3, 6]),
     (20, 10, 0.0, [0, 10]), (21, 10, 0.0, [0, 5, 11]), (3, 1, 0.9, [0, 1, 2])],
)  # fmt: skip
def test_windows_start_where_they_are_evenly_spread(size: int, patch: int, overlap: float, expected: list[int]) -> None:
    assert starts(size, patch, overlap) == expected


@pytest.mark.parametrize(
    ("image", "good"),
    [(np.zeros((2, 4, 8, 8), np.float32), True), (np.zeros((1, 4, 8, 8), np.float32), False),
     (np.zeros((4, 8, 8), np.float32), False), (np.zeros((2, 4, 8, 8), np.float64), False)],
)  # fmt: skip
def test_an_image_has_the_networks_channels(fake: Make, image: np.ndarray, good: bool) -> None:
    session = fake(make_spec((8, 8), channels=2), np.copy)
    if good:
        windows = sliding_window(session, image)
        assert (windows.batch, windows.attention, len(windows.tiling.windows)) == (4, False, 4)
        assert [len(given) for given in windows.batches()] == [4]
    else:
        with pytest.raises(ShapeError):
            sliding_window(session, image)
    with pytest.raises(UsageError, match="a batch of 0"):
        sliding_window(session, np.zeros((2, 4, 8, 8), np.float32), batch=0)


def test_the_windows_are_those_of_the_spec_until_others_are_asked_for(fake: Make) -> None:
    image = np.zeros((1, 1, 8, 32), np.float32)

    def count(session: Any, *asked: float) -> int:
        return len(sliding_window(session, image, *asked).tiling.windows)

    tuned = fake(make_spec((8, 8), 1, overlap=0.0), np.copy)
    assert (count(fake(make_spec((8, 8)), np.copy)), count(tuned), count(tuned, 0.75)) == (7, 4, 13)
    found = segment(tuned, make_volume(image[0]))
    assert found.windows.total == 4
    assert segment(tuned, make_volume(image[0]), settings=SegmentSettings(0.5)).windows.total == 7


def test_batches_are_given_in_two_buffers_in_turn(fake: Make) -> None:
    windows = sliding_window(fake(make_spec((8, 8)), np.copy), np.zeros((1, 7, 8, 8), np.float32), batch=2)
    given = list(windows.batches())
    assert [len(one) for one in given] == [2, 2, 2, 1]
    places = [one.__array_interface__["data"][0] for one in given]
    assert places[0] == places[2] != places[1] == places[3]


def test_a_batch_takes_an_eighth_of_the_free_memory_and_no_more(monkeypatch: pytest.MonkeyPatch, fake: Make) -> None:
    """Two buffers of float32 patches and logits: 2 x 4 x (1 + 3) x 64 bytes for each window."""
    session, image = fake(make_spec((8, 8)), lambda p: np.repeat(p, 3, 1)), np.zeros((1, 9, 8, 8), np.float32)

    def best(free: int) -> int:
        monkeypatch.setattr(batches, "available_mb", lambda: free / 1e6)
        ticks = iter(range(1000))
        found: int = batches.tuned_batch(session, image, clock=lambda: next(ticks))
        return found

    for size in (2, 4, 8):
        needed = 2 * 4 * size * (1 + 3) * 64 * 8
        assert best(needed + 1) == size
        assert best(needed) == size // 2


@pytest.mark.parametrize(("ratio", "best"), [(0.97, 2), (0.975, 1)])
def test_a_larger_batch_has_to_win_three_in_a_hundred(fake: Make, ratio: float, best: int) -> None:
    """The fastest of three runs counts, after one that is not timed."""
    session, image = fake(make_spec((8, 8)), lambda p: np.repeat(p, 3, 1)), np.zeros((1, 3, 8, 8), np.float32)
    took = [100.0, 50.0, 90.0, 2 * 50 * ratio, 900.0, 900.0]
    times = [time for number, span in enumerate(took) for time in (1000.0 * number, 1000.0 * number + span)]
    ticks = iter(times)
    assert batches.tuned_batch(session, image, clock=lambda: next(ticks)) == best
    assert session.seen == [1] * 4 + [2] * 4


@pytest.mark.parametrize(
    ("low", "high", "inside"),
    [(-501, -500, True), (-501, -501, False), (-500, -499, True), (-500, -500, False), (-1000, -499, True)],
)
def test_tissue_begins_half_way_between_air_and_water(low: int, high: int, inside: bool) -> None:
    """Below that there is air, and the scan is in HU; where it has none, only the lowest value is outside."""
    voxels = np.full((1, 5, 5), low, np.int16)
    voxels[0, 2, 2] = high
    assert bool(hull(make_volume(voxels))[0, 2, 2]) is inside
    assert hull(make_volume(voxels)).sum() == int(inside)


@pytest.mark.parametrize(("place", "left_out"), [(15, False), (16, False), (17, False), (18, True)])
@pytest.mark.parametrize("axis", [1, 2])
def test_a_window_is_left_out_an_eighth_of_its_size_away_from_the_body(axis: int, place: int, left_out: bool) -> None:
    voxels = np.full((1, 48, 48), -1000, np.int16)
    index: list[Any] = [0, slice(None), slice(None)]
    index[axis] = slice(place, 30)
    voxels[tuple(index)] = 40
    prepared = prepare(make_volume(voxels), make_spec((16, 16)))
    tiling = Tiling(prepared.image.shape[1:], (16, 16), 0.0)
    assert (0 in windows_of_air(prepared, tiling)) is left_out
    last = [window[axis] for window in tiling.windows].index(32)
    voxels[...] = -1000
    index[axis] = slice(18, 48 - place)
    voxels[tuple(index)] = 40
    assert (last in windows_of_air(prepare(make_volume(voxels), make_spec((16, 16))), tiling)) is left_out
