"""What a calibration asks and which windows it chooses: each limit itself and the next value."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medattn_edge.agreement import Thresholds
from medattn_edge.errors import UsageError
from medattn_edge.precision.choice import BalancedChoice, choose_windows, divided
from medattn_edge.precision.int8 import _runtime
from medattn_edge.precision.quantizers.quantizer import QuantizationRecipe, fitting_quantizers, quantizers
from medattn_edge.precision.settings import CalibrationSettings
from medattn_edge.precision.trials import TrialRuntime
from medattn_edge.precision.windows import ScanFacts, ScanSource, TiledScan, Windows, random_scan
from medattn_edge.spec import Intensity
from medattn_edge.volume import Volume
from tests.precision.scans import DEEP, LPS, SPEC, brighter_than, every_window, scan

ANYTHING: Any = None


def source(voxels: np.ndarray, name: str = "a") -> ScanSource:
    return ScanSource(name, lambda: Volume(voxels, LPS))


@pytest.mark.parametrize(
    ("values", "good"),
    [
        ({"gate": 0.0}, True), ({"gate": 1.0}, True), ({"gate": -0.001}, False), ({"gate": 1.001}, False),
        ({"samples": 1}, True), ({"samples": 0}, False), ({"held_out_samples": 1}, True),
        ({"held_out_samples": 0}, False), ({"max_trials": 1}, True), ({"max_trials": 0}, False),
        ({"min_true_dice_share": 0.0}, True), ({"min_true_dice_share": -0.1}, False),
        ({"min_true_dice_share": 1.01}, True), ({"min_true_dice_share": 1.02}, False),
        ({"max_true_dice_share": 0.999}, True), ({"max_true_dice_share": 0.998}, False),
        ({"max_true_dice_share": math.inf}, False), ({"isa": "arm"}, True), ({"isa": "mips"}, False),
    ],
)  # fmt: skip
def test_settings_may_be_this_and_no_more(values: dict[str, Any], good: bool) -> None:
    if good:
        assert CalibrationSettings(profile="cpu", **values).profile == "cpu"
    else:
        with pytest.raises(UsageError):
            CalibrationSettings(profile="cpu", **values)


def test_what_is_asked_where_nothing_is_said() -> None:
    settings = CalibrationSettings(profile="cpu")
    assert (settings.samples, settings.held_out_samples, settings.max_trials) == (32, 16, 64)
    assert (settings.seed, settings.threads, settings.allow_random, settings.method) == (0, 0, False, "minmax")
    assert settings.shares == (0.999, 1.01)
    assert settings.thresholds(False) == Thresholds(min_dice=0.999)
    assert settings.thresholds(True) == Thresholds(min_dice=0.99, min_true_dice_share=0.999, max_true_dice_share=1.01)
    asked = CalibrationSettings(profile="cpu", gate=0.5, min_true_dice_share=0.6, max_true_dice_share=2.0)
    assert asked.thresholds(False) == Thresholds(min_dice=0.5)
    assert asked.thresholds(True) == Thresholds(min_dice=0.5, min_true_dice_share=0.6, max_true_dice_share=2.0)
    assert CalibrationSettings(profile="tensorrt", isa="arm").recipe == QuantizationRecipe("tensorrt", "arm", "minmax")


@pytest.mark.parametrize(
    ("profile", "runtime", "name", "expected"),
    [
        ("cpu", "", "a.onnx", TrialRuntime("onnxruntime", True, 3)),
        ("cpu", "", "a.XML", TrialRuntime("openvino", True, 3)),
        ("cpu", "openvino", "a.onnx", TrialRuntime("openvino", True, 3)),
        ("tensorrt", "openvino", "a.onnx", TrialRuntime("onnxruntime", False, 3)),
    ],
)
def test_a_candidate_is_judged_in_what_will_run_it(
    profile: str, runtime: str, name: str, expected: TrialRuntime
) -> None:
    assert _runtime(Path(name), CalibrationSettings(profile=profile, runtime=runtime, threads=3)) == expected
    assert TrialRuntime("x") == TrialRuntime("x", optimise=True, threads=0)


def test_quantizers_are_tried_in_the_order_of_their_records_defaults_first() -> None:
    names = [one.name for one in fitting_quantizers(Path("a.onnx"), QuantizationRecipe("cpu"))]
    assert names == [*(one for one in names if quantizers()[one].default), "onnxruntime"]
    with pytest.raises(UsageError) as caught:
        fitting_quantizers(Path("a.onnx"), QuantizationRecipe("cpu"), "none")
    assert caught.value.hint == f"--quantizer {next(iter(quantizers()))}"
    with pytest.raises(UsageError) as caught:
        fitting_quantizers(Path("a.bin"), QuantizationRecipe("cpu"))
    assert caught.value.hint.startswith("-o NAME.")


@pytest.mark.parametrize(("count", "bright"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3)])
def test_of_an_odd_number_the_larger_half_has_foreground(count: int, bright: int) -> None:
    tiled = TiledScan(scan((20, 32, 24)), SPEC)
    choice = BalancedChoice(brighter_than(0.5, SPEC), count)
    choice.add(tiled, tiled.tiling.windows)
    chosen = list(choice.chosen())
    assert len(chosen) == count
    assert sum(bool((patch > 0.5).any()) for patch in chosen) == bright


def test_twice_as_many_candidates_as_wanted_are_looked_at() -> None:
    for count, seen in ((1, 2), (3, 6), (100, 120)):
        session = brighter_than(0.5, SPEC)
        choice = BalancedChoice(session, count)
        tiled = TiledScan(scan((20, 32, 24)), SPEC)
        assert len(tiled.tiling.windows) == 20 * 3 * 2
        choice.add(tiled, tiled.tiling.windows)
        assert sum(session.seen) == seen
        assert len(choice.chosen()) == min(count, 120)


def test_counts_are_32_to_calibrate_on_and_16_to_judge_on() -> None:
    some, others = choose_windows([scan((60, 32, 24), seed=1), scan((60, 32, 24), seed=2)], [], brighter_than(0.5))
    assert (len(some), len(others)) == (32, 16)
    assert BalancedChoice(brighter_than(0.5), 1)._left == 1


@pytest.mark.parametrize(("length", "parts"), [(95, 3), (96, 6), (97, 6), (48, 3), (50, 3)])
def test_a_scan_is_cut_into_six_parts_where_each_is_a_patch_long(length: int, parts: int) -> None:
    tiled = TiledScan(source(np.random.default_rng(0).random((length, 16, 16)).astype(np.float32)), DEEP)
    outside, held = divided(tiled, brighter_than(0.5, DEEP))
    size = 16
    edges = [length * index // parts for index in range(parts + 1)]
    places = [
        next(index for index in range(parts) if edges[index] <= window[0] and window[0] + size <= edges[index + 1])
        for window in held
    ]
    assert {place % 3 for place in places} == {places[0] % 3}
    assert len(set(places)) == parts // 3
    others = {
        next(index for index in range(parts) if edges[index] <= window[0] and window[0] + size <= edges[index + 1])
        for window in outside
    }
    assert others | set(places) == set(range(parts))
    assert not others & set(places)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_longest_axis_in_patches_is_the_one_that_is_cut(axis: int) -> None:
    shape = [20, 20, 20]
    shape[axis] = 60
    tiled = TiledScan(source(np.random.default_rng(0).random(shape).astype(np.float32)), DEEP)
    outside, held = divided(tiled, brighter_than(0.5, DEEP))
    starts = {window[axis] for window in held}, {window[axis] for window in outside}
    assert not starts[0] & starts[1]
    other = (axis + 1) % 3
    assert {window[other] for window in held} == {window[other] for window in outside}


def test_where_all_thirds_are_alike_the_middle_one_is_held_out() -> None:
    tiled = TiledScan(source(np.full((48, 16, 16), 0.9, np.float32) + np.arange(48)[:, None, None]), DEEP)
    assert divided(tiled, brighter_than(0.5, DEEP))[1] == [(16, 0, 0)]


def test_the_first_scan_of_one_is_the_one_that_is_divided() -> None:
    with pytest.raises(UsageError, match="small is too small to be divided: 16x16x16 voxels, patches of 16x16x16"):
        choose_windows([scan((16, 16, 16), name="small")], [], brighter_than(0.5, DEEP))
    some, others = choose_windows([scan((16, 16, 16), seed=1)], [scan((16, 16, 16), seed=2)], brighter_than(0.5, DEEP))
    assert (len(some), len(others)) == (1, 1)


def test_noise_has_four_patches_a_side_or_twelve_slices_in_the_specs_spacing_and_values() -> None:
    spec = replace(SPEC, intensity=Intensity.window(-100.0, 300.0), spacing=(2.0, 0.5))
    flat = random_scan(spec).read()
    assert flat.voxels.shape == (12, 16, 16)
    assert (-100 <= flat.voxels.min() < -99, 299 < flat.voxels.max() <= 300) == (True, True)
    assert flat.spacing == (1.0, 2.0, 0.5)
    assert np.array_equal(flat.affine, np.diag((1.0, 2.0, 0.5, 1.0))[[2, 1, 0, 3]])
    deep = random_scan(replace(DEEP, axes="HWD", patch=(16, 32, 48), in_channels=2, spacing=(3.0, 1.0, 2.0))).read()
    assert deep.voxels.shape == (2, 192, 64, 128)
    assert deep.spacing == (3.0, 1.0, 2.0)
    assert random_scan(DEEP).read().spacing == (1.0, 1.0, 1.0)
    assert np.array_equal(random_scan(DEEP, 1).read().voxels, random_scan(DEEP, 1).read().voxels)
    assert not np.array_equal(random_scan(DEEP, 1).read().voxels, random_scan(DEEP).read().voxels)
    assert ScanFacts().notes == ()


def test_windows_say_where_they_are_from() -> None:
    windows = every_window(scan((2, 16, 16), name="a"))
    both = Windows([*windows._cuts, *every_window(scan((1, 16, 16), seed=1, name="b"))._cuts])
    assert both.report() == {"a": 2, "b": 1}
    assert (len(both), len(both.scans), len(both.places), len(both[1:])) == (3, 2, 3, 2)
    assert both.has_truth
    assert not every_window(source(np.ones((1, 16, 16), np.float32) * np.arange(16))).has_truth
    assert [one.window for one in windows._cuts] == [(0, 0, 0), (1, 0, 0)]
    assert windows.truth(0).shape == (16, 16)
