"""From a scan to a network's input: each step is its formula, and each limit the number that is written here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medattn_edge.errors import ScanError, UsageError
from medattn_edge.inference import prepare, sample_patches
from medattn_edge.inference.preprocess import _forward
from medattn_edge.inference.real_patches import real_patches
from medattn_edge.inference.resample import by_ratio, positions
from medattn_edge.io import write_labels
from medattn_edge.spec import Intensity
from tests.support.sessions import make_spec, make_volume

Make = Callable[..., Any]
RNG = np.random.default_rng(0)


VALUES = RNG.normal(50, 20, (2, 3, 4)).round(3)
VALUES[0, 0, :2] = 0


@pytest.mark.parametrize(
    ("chain", "expected"),
    [
        ("zscore", lambda v: (v - v.mean()) / v.std()),
        ("minmax", lambda v: (v - v.min()) / (v.max() - v.min())),
        ("normalize:40:5", lambda v: (v - 40) / 5),
        ("window:30:60", lambda v: (v.clip(30, 60) - 30) / 30),
        ("clip:30:60", lambda v: v.clip(30, 60)),
        ("map:30:60:-1:3", lambda v: (v - 30) / 30 * 4 - 1),
        ("clip:10%:90%", lambda v: v.clip(*np.percentile(v, (10, 90)))),
        ("zscore:nonzero", lambda v: np.where(v == 0, 0, (v - v[v != 0].mean()) / v[v != 0].std())),
        ("clip:30:60,minmax", lambda v: (v.clip(30, 60) - 30) / 30),
    ],
)
def test_each_step_is_its_formula(chain: str, expected: Callable[[np.ndarray], np.ndarray]) -> None:
    image = prepare(make_volume(VALUES), make_spec((4, 4), intensity=Intensity.parse(chain))).image[0]
    np.testing.assert_allclose(image, expected(VALUES), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("low", "high", "good"), [(0, 10, False), (0, 11, True), (20, 30, False), (19, 30, True), (10, 20, True)]
)
def test_a_scan_has_values_inside_the_window(low: int, high: int, good: bool) -> None:
    scan = make_volume(np.linspace(low, high, 12).reshape(1, 3, 4))
    spec = make_spec((4, 4), intensity=Intensity.window(10, 20))
    if good:
        assert prepare(scan, spec).image.shape == (1, 1, 3, 4)
    else:
        with pytest.raises(ScanError, match=r"all lie outside the window 10\.\.20"):
            prepare(scan, spec)


@pytest.mark.parametrize(
    ("ratio", "resampled"), [(1.001, False), (0.9991, False), (1.0011, True), (0.9989, True), (1, False)]
)
def test_spacings_within_a_thousandth_are_equal(ratio: float, resampled: bool) -> None:
    prepared = prepare(make_volume(VALUES), make_spec((4, 4), spacing=(ratio, 1.0)))
    assert (prepared.steps[1] != 1) is resampled
    assert (1 in prepared.way_back) is resampled
    assert (0 in prepared.way_back, 2 in prepared.way_back) == (False, False)


def test_a_resampled_scan_has_two_thousand_million_voxels_at_most() -> None:
    assert _forward((1 << 10, 1 << 10, 1 << 10), [1.0, 1.0, 0.5])[3].size == 1 << 11
    with pytest.raises(ScanError, match="1024x1024x2049 voxels"):
        _forward((1 << 10, 1 << 10, 2049), [1.0, 1.0, 1.0])
    assert _forward((1, 4, 4), [1.0, 9.0, 1.0])[2].size == 1  # no axis vanishes


def test_samples_lie_around_the_centre_and_stay_on_the_axis() -> None:
    assert positions(4, 2, 2.0).tolist() == [0.5, 2.5]
    assert positions(4, 6, 1.0).tolist() == [0, 0, 1, 2, 3, 3]
    assert positions(5, 3, 1.0).tolist() == [1, 2, 3]
    assert by_ratio({1: np.zeros(3), 2: np.zeros(1), 3: np.zeros(6)}, (1, 4, 4, 4)) == [2, 1, 3]
    assert by_ratio({1: np.zeros(4), 3: np.zeros(4)}, (1, 4, 4, 4)) == [3, 1]


@pytest.mark.parametrize(("value", "good"), [(3.4028234e38, True), (3.5e38, False), (-3.5e38, False), (np.nan, False)])
def test_a_value_is_a_number_of_32_bits(value: float, good: bool) -> None:
    voxels = VALUES.copy()
    voxels[1, 2, 3] = value
    if good:
        assert prepare(make_volume(voxels), make_spec((4, 4))).image.max() > 3e38
    else:
        with pytest.raises(ScanError, match=r"1 voxel\(s\) that .* first at \(d, h, w\) = \(1, 2, 3\)"):
            prepare(make_volume(voxels), make_spec((4, 4)))


def test_a_sample_is_of_the_better_half_of_its_run() -> None:
    """Of five windows with five contrasts the three best are chosen from, and of four the two best."""
    for slices, better in ((5, {2, 3, 4}), (4, {2, 3}), (1, {0})):
        voxels = np.zeros((slices, 8, 8))
        voxels[:, ::2] = np.arange(slices)[:, None, None] + 1
        chosen = {int(sample_patches(make_volume(voxels), make_spec((8, 8)), 1, seed).max()) - 1 for seed in range(40)}
        assert chosen == better
    first = sample_patches(make_volume(RNG.normal(size=(9, 8, 8))), make_spec((8, 8)), 2)
    assert first.shape == (2, 1, 8, 8)
    with pytest.raises(UsageError, match="0 patches"):
        sample_patches(make_volume(VALUES), make_spec((4, 4)), 0)
    assert len(sample_patches(make_volume(VALUES), make_spec((4, 4)), 1)) == 1


def test_the_shipped_scan_is_repeated_for_a_network_of_several_channels() -> None:
    ((name, patches),) = real_patches(make_spec((32, 32), channels=2), [], 2).items()
    assert name == "CTChest4.nrrd"
    assert patches.shape == (2, 2, 32, 32)
    assert np.array_equal(patches[:, 0], patches[:, 1])
    assert np.array_equal(patches[:, 0], next(iter(real_patches(make_spec((32, 32)), [], 2).values()))[:, 0])


def test_scans_of_one_name_are_called_by_their_paths(tmp_path: Path) -> None:
    paths = [tmp_path / folder / "scan.npz" for folder in ("a", "b")]
    for number, path in enumerate(paths):
        path.parent.mkdir()
        write_labels(path, make_volume(np.arange(64).reshape(1, 8, 8) + number), ["a"])
    found = real_patches(make_spec((8, 8)), paths, 1)
    assert list(found) == [str(path) for path in paths]
    assert not np.array_equal(*found.values())
    assert list(real_patches(make_spec((8, 8)), paths[:1], 1)) == ["scan.npz"]
