"""Which windows a calibration sees, and which it is judged on."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from medattn_edge.errors import UsageError
from medattn_edge.precision.choice import BalancedChoice, choose_windows
from medattn_edge.precision.windows import ScanSource, TiledScan, Windows, random_scan
from medattn_edge.spec import Intensity, ModelSpec
from medattn_edge.volume import Volume
from tests.precision.scans import DEEP, LPS, SPEC, brighter_than, scan

ALL = (10_000, 10_000)


def of(voxels: np.ndarray, name: str = "a") -> ScanSource:
    return ScanSource(name, lambda: Volume(voxels, LPS))


def balanced(source: ScanSource, count: int, session: Any = None, seed: int = 0) -> Windows:
    tiled = TiledScan(source, SPEC)
    choice = BalancedChoice(session or brighter_than(0.5, SPEC), count, seed=seed)
    choice.add(tiled, tiled.tiling.windows)
    return choice.chosen()


@pytest.mark.parametrize(
    ("spec", "shape"), [(SPEC, (12, 32, 24)), (DEEP, (96, 16, 32)), (DEEP, (16, 24, 120)), (DEEP, (50, 17, 20))]
)
def test_a_single_scan_is_divided_without_a_voxel_in_both(spec: ModelSpec, shape: tuple[int, ...]) -> None:
    voxels = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    some, others = choose_windows([of(voxels)], [], brighter_than(0.5, spec), ALL)
    seen, held = (set(np.concatenate([patch.ravel() for patch in windows]).tolist()) for windows in (some, others))
    assert seen
    assert held
    assert not seen & held


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_third_that_is_held_out_has_something_to_judge(place: int) -> None:
    voxels = np.full((90, 16, 16), 0.1, np.float32)
    voxels[(place + 1) % 3 * 30 + 5 : (place + 1) % 3 * 30 + 15] = 0.9  # two thirds have foreground, one has none
    voxels[(place + 2) % 3 * 30 + 5 : (place + 2) % 3 * 30 + 15] = 0.9
    some, others = choose_windows([of(voxels)], [], brighter_than(0.5, SPEC), ALL)
    assert max(patch.max() for patch in others) > 0.5
    assert max(patch.max() for patch in some) > 0.5


def test_a_scan_too_small_to_be_divided_is_refused() -> None:
    with pytest.raises(UsageError, match=r"too small(.|\n)*--held-out"):
        choose_windows([scan((16, 16, 16))], [], brighter_than(0.5, DEEP))


def test_of_several_scans_the_last_is_held_out() -> None:
    three = [scan(seed=1, name="a"), scan(seed=2, name="b"), scan(seed=3, name="c")]
    some, others = choose_windows(three, [], brighter_than(0.5, SPEC), (12, 6))
    assert set(some.report()) == {"a", "b"}
    assert len(some) == 12
    assert others.report() == {"c": 6}


def test_a_scan_of_few_windows_leaves_its_share_to_the_next() -> None:
    pair = [scan((1, 16, 16), seed=1, name="small"), scan((20, 32, 24), seed=2, name="large")]
    some, _ = choose_windows(pair, [scan(seed=3)], brighter_than(0.5, SPEC), (12, 6))
    assert len(some) == 12
    assert some.report()["large"] >= 11


def test_every_scan_is_looked_at_even_when_there_are_more_than_patches() -> None:
    many = [scan(seed=seed, name=f"{seed}") for seed in range(9)]
    read: list[str] = []

    def counted(source: ScanSource) -> ScanSource:
        return replace(source, read=lambda: (read.append(source.name), source.read())[1])

    some, _ = choose_windows([counted(one) for one in many], [scan(seed=99)], brighter_than(0.5, SPEC), (2, 2))
    assert read == [one.name for one in many]
    assert len(some) == 2


def test_a_scan_is_never_calibrated_and_judged_on() -> None:
    with pytest.raises(UsageError, match=r"again would be both(.|\n)*--held-out"):
        choose_windows([scan(name="a"), scan(seed=1)], [scan(name="again")], brighter_than(0.5, SPEC))


def test_no_scan_is_refused() -> None:
    with pytest.raises(UsageError, match="no scan"):
        choose_windows([], [], brighter_than(0.5, SPEC))


def test_each_scan_is_read_once_and_forgotten_before_the_next_one_is_read() -> None:
    read: list[str] = []
    volumes: list[weakref.ref[np.ndarray]] = []

    def one(name: str, seed: int) -> ScanSource:
        def load() -> Volume:
            assert all(volume() is None for volume in volumes), "the scan before is still in memory"
            read.append(name)
            voxels = scan(seed=seed).read().voxels.copy()
            volumes.append(weakref.ref(voxels))
            return Volume(voxels, LPS)

        return ScanSource(name, load)

    some, others = choose_windows([one("a", 1), one("b", 2)], [one("c", 3)], brighter_than(0.5, SPEC), (8, 4))
    for _ in range(3):
        assert len(list(some)) == 8
        assert len(list(others)) == 4
    assert read == ["a", "b", "c"]


def test_half_of_the_patches_have_foreground() -> None:
    source = scan((20, 32, 24))
    chosen = balanced(source, 12)
    bright = [bool((patch > 0.5).any()) for patch in chosen]
    assert len(bright) == 12
    assert sum(bright) == 6
    assert balanced(source, 12).digest == chosen.digest
    assert balanced(source, 12, seed=1).digest != chosen.digest


def test_without_background_the_foreground_fills_its_half() -> None:
    assert len(balanced(of(np.ones((20, 32, 24), np.float32) + np.arange(24, dtype=np.float32)), 12)) == 12


def test_a_session_of_a_fixed_batch_chooses_the_same_patches() -> None:
    assert balanced(scan(), 8, brighter_than(0.5, SPEC, batch=3)).digest == balanced(scan(), 8).digest


def test_a_count_below_one_is_refused() -> None:
    with pytest.raises(UsageError, match="--samples"):
        BalancedChoice(brighter_than(0.5, SPEC), 0)


@pytest.mark.parametrize("spec", [SPEC, replace(SPEC, in_channels=2), replace(DEEP, axes="HWD", spacing=(3, 1, 2))])
def test_noise_goes_the_way_of_a_scan(spec: ModelSpec) -> None:
    spec = replace(spec, intensity=Intensity.window(-100.0, 300.0))
    some, others = choose_windows([random_scan(spec, 3)], [], brighter_than(0.5, spec), ALL)
    assert some[0].shape == others[0].shape == (1, spec.in_channels, *spec.patch)
    assert 0.4 < some[0].mean() < 0.6
