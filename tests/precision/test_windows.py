"""Windows: which patches of which scans a calibration sees, and which it is judged on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medattn_edge.backends.session import Session
from medattn_edge.errors import UsageError
from medattn_edge.inference.preprocess import prepare
from medattn_edge.precision.windows import Scan, balanced, every_window, random_scan, split
from medattn_edge.spec import Intensity, ModelSpec
from medattn_edge.volume import Volume

LPS = np.eye(4)[[2, 1, 0, 3]]  # D towards the head, H to the back, W to the left
SPEC = ModelSpec("attention-unet-2d", 1, ("background", "organ"), (16, 16), (16, 16), config={"width": 4})
DEEP = replace(SPEC, network="attention-unet-3d", patch=(16, 16, 16), stride=(16, 16, 16), axes="DHW")


class Bright(Session):
    """Foreground is what is brighter than a half."""

    def _run(self, patches: np.ndarray) -> np.ndarray:
        return np.concatenate([0.5 - patches[:, :1], patches[:, :1] - 0.5], axis=1)


def scan(shape: tuple[int, ...] = (12, 32, 24), seed: int = 0, name: str = "scan") -> Scan:
    voxels = np.random.default_rng(seed).random(shape).astype(np.float32) * 0.4
    voxels[: shape[0] // 2, 4:9, 4:9] = 1
    volume = Volume(voxels, LPS)
    return Scan(
        name, f"{name} {seed}", lambda: volume, lambda _: Volume((voxels > 0.5).astype(np.uint8), volume.affine)
    )


def test_a_window_is_the_patch_that_segmenting_would_see() -> None:
    windows = every_window([scan()], SPEC)
    image = prepare(scan().read(), SPEC).image
    assert len(windows) == 12 * 3 * 2
    assert windows[0].shape == (1, 1, 16, 16)
    np.testing.assert_array_equal(windows[0][0, 0], image[0, 0, :16, :16])
    np.testing.assert_array_equal(windows[-1][0, 0], image[0, -1, -16:, -16:])


def test_the_true_labels_of_a_window_lie_where_its_voxels_do() -> None:
    windows = every_window([scan()], SPEC)
    for index in (0, 1, 40, len(windows) - 1):
        np.testing.assert_array_equal(windows.truth(index), windows[index][0, 0] > 0.5)
    assert windows.truth(0).any()


def test_true_labels_follow_a_scan_that_is_resampled_and_reoriented() -> None:
    spec = replace(SPEC, spacing=(0.5, 0.5))
    flipped = Volume(scan().read().voxels, LPS * np.array([-1.0, 1.0, -1.0, 1.0]))
    labels = Volume((flipped.voxels > 0.5).astype(np.uint8), flipped.affine)
    windows = every_window([Scan("a", "a", lambda: flipped, lambda _: labels)], spec)
    inside = np.concatenate([windows[i][0, 0][windows.truth(i) == 1] for i in range(len(windows))])
    outside = np.concatenate([windows[i][0, 0][windows.truth(i) == 0] for i in range(len(windows))])
    assert inside.mean() > 0.85
    assert outside.mean() < 0.3


def test_a_scan_smaller_than_the_patch_has_no_label_in_its_margin() -> None:
    windows = every_window([scan((2, 10, 10))], SPEC)
    assert windows[0].shape == (1, 1, 16, 16)
    assert windows.truth(0).shape == (16, 16)
    assert windows.truth(0)[:3].sum() == 0


def test_one_scan_is_held_in_memory_at_a_time() -> None:
    read: list[str] = []

    def one(name: str) -> Scan:
        def load() -> Volume:
            read.append(name)
            return scan(name=name).read()

        return Scan(name, name, load)

    windows = every_window([one("a"), one("b")], SPEC)
    read.clear()
    for patch in windows:
        assert patch.shape == (1, 1, 16, 16)
    assert read == ["a", "b"]


@pytest.mark.parametrize(
    ("spec", "shape"), [(SPEC, (12, 32, 24)), (DEEP, (96, 16, 32)), (DEEP, (16, 24, 120)), (DEEP, (50, 17, 20))]
)
def test_one_scan_alone_is_divided_without_a_voxel_in_both(spec: ModelSpec, shape: tuple[int, ...]) -> None:
    voxels = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    volume = Volume(voxels, LPS)
    some, others = split([Scan("a", "a", lambda: volume)], [], spec, Bright(spec))
    seen, held = (set(np.concatenate([patch.ravel() for patch in windows]).tolist()) for windows in (some, others))
    assert seen
    assert held
    assert not seen & held


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_third_that_is_held_out_has_something_to_judge(place: int) -> None:
    voxels = np.full((90, 16, 16), 0.1, np.float32)
    voxels[(place + 1) % 3 * 30 + 5 : (place + 1) % 3 * 30 + 15] = 0.9  # two thirds have foreground, one has none
    voxels[(place + 2) % 3 * 30 + 5 : (place + 2) % 3 * 30 + 15] = 0.9
    some, others = split([Scan("a", "a", lambda: Volume(voxels, LPS))], [], SPEC, Bright(SPEC))
    assert max(patch.max() for patch in others) > 0.5
    assert max(patch.max() for patch in some) > 0.5


def test_a_scan_too_small_to_be_divided_is_refused() -> None:
    with pytest.raises(UsageError, match=r"too small(.|\n)*--held-out"):
        split([scan((16, 16, 16))], [], DEEP, Bright(DEEP))


def test_of_several_scans_the_last_is_held_out() -> None:
    some, others = split(
        [scan(seed=1, name="a"), scan(seed=2, name="b"), scan(seed=3, name="c")], [], SPEC, Bright(SPEC)
    )
    assert list(some.report()) == ["a", "b"]
    assert list(others.report()) == ["c"]


def test_a_scan_is_never_calibrated_and_judged_on() -> None:
    with pytest.raises(UsageError, match=r"again would be both(.|\n)*--held-out"):
        split([scan(name="a"), scan(seed=1)], [replace(scan(name="a"), name="again")], SPEC, Bright(SPEC))


def test_no_scan_is_refused() -> None:
    with pytest.raises(UsageError, match="no scan"):
        split([], [], SPEC, Bright(SPEC))


def test_half_of_the_patches_have_foreground() -> None:
    windows = every_window([scan((20, 32, 24))], SPEC)
    chosen = balanced(windows, Bright(SPEC), 12)
    bright = [bool((patch > 0.5).any()) for patch in chosen]
    assert len(bright) == 12
    assert sum(bright) == 6
    assert balanced(windows, Bright(SPEC), 12).digest == chosen.digest
    assert balanced(windows, Bright(SPEC), 12, seed=1).digest != chosen.digest


def test_without_background_the_foreground_fills_its_half() -> None:
    volume = Volume(np.ones((20, 32, 24), np.float32) + np.arange(24, dtype=np.float32), LPS)
    assert len(balanced(every_window([Scan("a", "a", lambda: volume)], SPEC), Bright(SPEC), 12)) == 12


def test_a_session_of_a_fixed_batch_chooses_the_same_patches() -> None:
    windows = every_window([scan()], SPEC)
    assert balanced(windows, Bright(SPEC, batch=3), 8).digest == balanced(windows, Bright(SPEC), 8).digest


def test_a_digest_tells_scans_and_places() -> None:
    first = every_window([scan()], SPEC)
    assert first.digest == every_window([scan()], SPEC).digest
    assert len({first.digest, first[:4].digest, every_window([scan(seed=1)], SPEC).digest}) == 3


@pytest.mark.parametrize("spec", [SPEC, replace(SPEC, in_channels=2), replace(DEEP, axes="HWD", spacing=(3, 1, 2))])
def test_noise_goes_the_way_of_a_scan(spec: ModelSpec) -> None:
    spec = replace(spec, intensity=Intensity.window(-100.0, 300.0))
    some, others = split([random_scan(spec, 3)], [], spec, Bright(spec))
    assert some[0].shape == others[0].shape == (1, spec.in_channels, *spec.patch)
    assert 0.4 < some[0].mean() < 0.6


def test_a_scan_from_a_file_is_known_by_its_content(tmp_path: Path) -> None:
    def write(name: str, value: float) -> Any:
        np.savez(tmp_path / name, voxels=np.full((2, 16, 16), value), affine=LPS)
        return Scan.of_file(tmp_path / name)

    assert write("a.npz", 1).digest == write("b.npz", 1).digest != write("c.npz", 2).digest
