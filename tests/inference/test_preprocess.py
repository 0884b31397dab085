"""A scan becomes network input, or an error that says why not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medattn_edge.data.samples import sample_labels, sample_scan
from medattn_edge.errors import ScanError
from medattn_edge.inference.preprocess import labels_on_image, prepare
from medattn_edge.inference.resample import positions, resample
from medattn_edge.io import read_labels, read_volume
from medattn_edge.spec import Intensity

Make = Callable[..., Any]
RAMP = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)


def test_a_window_clips_and_maps_to_zero_and_one(spec_of: Make, volume_of: Make) -> None:
    spec = spec_of((4, 4), intensity=Intensity.window(5, 15))
    image = prepare(volume_of(RAMP), spec).image
    assert image.dtype == np.float32
    np.testing.assert_allclose(image[0], (RAMP.astype(float).clip(5, 15) - 5) / 10, rtol=1e-6)


@pytest.mark.parametrize("scope", ["", ":slice"])
@pytest.mark.parametrize("kind", ["zscore", "minmax"])
def test_statistics_are_those_of_their_scope(spec_of: Make, volume_of: Make, kind: str, scope: str) -> None:
    image = prepare(
        volume_of(RAMP + 10**4),
        spec_of((4, 4), intensity=Intensity.parse(kind + scope)),
    ).image[0]
    for part in image if scope else [image]:
        if kind == "zscore":
            assert part.mean() == pytest.approx(0, abs=1e-6)
            assert part.std() == pytest.approx(1, rel=1e-6)
        else:
            assert (part.min(), part.max()) == (0, 1)


@pytest.mark.parametrize("kind", ["zscore", "minmax"])
def test_a_slice_without_contrast_becomes_zeros(spec_of: Make, volume_of: Make, kind: str) -> None:
    voxels = np.random.default_rng(0).normal(size=(3, 11, 13))
    voxels[1] = 0.1  # 143 tenths do not add up to 14.3
    image = prepare(volume_of(voxels), spec_of((4, 4), intensity=Intensity.parse(f"{kind}:slice"))).image
    assert (image[0, 1] == 0).all()
    assert image[0, 2].std() > 0


def test_channels_have_their_own_statistics(spec_of: Make, volume_of: Make) -> None:
    voxels = np.stack([RAMP, 100 * RAMP + 7])
    image = prepare(volume_of(voxels), spec_of((4, 4), channels=2, intensity=Intensity.parse("zscore"))).image
    np.testing.assert_allclose(image[0], image[1], atol=1e-6)


@pytest.mark.parametrize(("size", "spacing"), [(8, 2.0), (9, 2.0), (8, 1.4), (10, 0.5)])
def test_labels_half_way_between_two_voxels_are_all_taken_from_the_same_side(
    spec_of: Make, volume_of: Make, size: int, spacing: float
) -> None:
    labels = volume_of(np.tile(np.arange(size, dtype=np.uint8)[:, None, None], (1, 4, 4)))
    prepared = prepare(
        labels.with_voxels(labels.voxels.astype(np.float32)), spec_of((2, 2, 2), spacing=(spacing, 1, 1))
    )
    found = labels_on_image(labels, prepared)[:, 0, 0].astype(float)
    exact = prepared.image[0, :, 0, 0]  # a ramp, interpolated: the position itself
    assert np.array_equal(found, np.floor(exact.round(4) + 0.5))
    assert np.array_equal(found, np.unique(found)) or spacing < 1  # none twice, unless they are made more


@pytest.mark.parametrize("spacing", [(1.5, 1.5), (3.05, 3.05), (2.0, 2.5), (1.7, 4.1)])
def test_the_labels_of_the_shipped_scan_do_not_depend_on_how_halves_are_rounded(
    spec_of: Make, spacing: tuple[float, float]
) -> None:
    """So what was trained and judged before on such scans had the same labels in both places."""
    scan, labels = read_volume(sample_scan()), read_labels(sample_labels())
    labels = labels.like(scan)
    prepared = prepare(scan, spec_of((16, 16), spacing=spacing))
    by_numpy = prepared.oriented_labels(labels).voxels
    for axis in (1, 2):
        by_numpy = np.take(by_numpy, np.rint(prepared.samples(axis)).astype(int), axis)
    found = labels_on_image(labels, prepared)
    assert found.any()
    assert np.array_equal(found, by_numpy)


def test_equal_spacing_leaves_an_axis_untouched(spec_of: Make, volume_of: Make) -> None:
    spec = spec_of((2, 2, 2), spacing=(2.0, 0.70003, 1.4))
    prepared = prepare(volume_of(RAMP, (2.0, 0.7, 0.7)), spec)
    assert prepared.steps[:2] == (1.0, 1.0)
    assert prepared.image.shape == (1, 2, 3, 2)
    np.testing.assert_allclose(prepared.image[0], (RAMP[:, :, ::2] + RAMP[:, :, 1::2]) / 2)


def test_a_2d_network_never_resamples_the_slices(spec_of: Make, volume_of: Make) -> None:
    prepared = prepare(volume_of(RAMP, (5.0, 1.0, 1.0)), spec_of((4, 4), spacing=(0.5, 2.0)))
    assert prepared.image.shape == (1, 2, 6, 2)
    assert prepared.steps == (1.0, 0.5, 2.0)


@pytest.mark.parametrize("axes", ["DHW", "DWH", "HDW", "HWD", "WDH", "WHD"])
def test_the_image_has_the_axes_in_the_networks_order(spec_of: Make, volume_of: Make, axes: str) -> None:
    spec = spec_of((1, 1, 1), axes=axes, spacing=(1.0, 0.5, 1.0))
    prepared = prepare(volume_of(RAMP, (1.0, 0.5, 1.0)), spec)
    expected = RAMP.transpose(["DHW".index(axis) for axis in axes])
    np.testing.assert_array_equal(prepared.image[0], expected)
    np.testing.assert_array_equal(prepared.in_network_order(RAMP), expected)


def test_spacing_stays_with_its_axis_when_the_order_changes(spec_of: Make, volume_of: Make) -> None:
    prepared = prepare(volume_of(RAMP), spec_of((1, 1, 1), axes="HWD", spacing=(2.0, 1.0, 0.5)))
    assert prepared.image.shape == (1, 3, 8, 1)
    assert prepared.steps == (1.0, 0.5, 2.0)


def test_orientation_becomes_lps(spec_of: Make, volume_of: Make) -> None:
    volume = volume_of(RAMP)
    turned = volume._permuted((2, 0, 1), (True, False, True))
    image = prepare(turned, spec_of((4, 4))).image
    np.testing.assert_array_equal(image[0], RAMP)


@settings(deadline=None)
@given(st.integers(1, 60), st.floats(0.05, 20))
def test_both_grids_share_their_centre_and_field_of_view(size: int, step: float) -> None:
    out = max(1, round(size / step))
    there, back = positions(size, out, step), positions(out, size, 1 / step)
    assert there.shape == (out,)
    assert back.shape == (size,)
    for where, length in ((there, size), (back, out)):
        assert (np.diff(where) >= 0).all()
        assert where[0] + where[-1] == pytest.approx(length - 1)  # symmetric about the centre
    if out > 1 and size > 1:
        inner = there[(there > 0) & (there < size - 1)]
        np.testing.assert_allclose(np.diff(inner), step)


def test_resampling_is_exact_on_a_plane() -> None:
    """Linear interpolation of a linear function, away from the ends."""
    d, h, w = np.indices((9, 8, 7), dtype=np.float32)
    samples = {0: positions(9, 6, 1.5), 2: positions(7, 14, 0.5)}
    found = resample(2 * d + 3 * h - w, samples)
    expected = 2 * samples[0][:, None, None] + 3 * np.arange(8)[:, None] - samples[2]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def broken(value: float) -> np.ndarray:
    voxels = RAMP.astype(np.float64)
    voxels[1, 0, 2] = voxels[1, 2, 3] = value
    return voxels


@pytest.mark.parametrize(
    ("voxels", "settings_", "said"),
    [
        (np.stack([RAMP[:1]] * 3), {}, r"RGB picture.*expected 1 channel(.|\n)*grey"),
        (np.stack([RAMP] * 3), {}, r"3 channel.*expected 1 channel(.|\n)*slicer"),
        (RAMP, {"channels": 3}, r"1 channel.*expected 3 channel"),
        (broken(np.nan), {}, r"2 voxel.*\(1, 0, 2\).*nan(.|\n)*DICOM"),
        (broken(-np.inf), {}, r"2 voxel.*\(1, 0, 2\).*-inf"),
        (broken(1e300), {}, r"2 voxel.*\(1, 0, 2\).*1e\+300.*float32"),
        (RAMP.astype(complex), {}, r"complex128.*real numbers"),
        (np.full((2, 3, 4), 7), {"intensity": Intensity.parse("zscore")}, r"every voxel.*is 7(.|\n)*export"),
        (np.full((2, 3, 4), 7), {"intensity": Intensity.parse("minmax:slice")}, r"every voxel.*is 7"),
        (np.full((2, 3, 4), 7), {"intensity": Intensity.window(0, 10)}, r"every voxel.*is 7"),
        (RAMP, {"intensity": Intensity.window(23, 90)}, r"0\.\.23 .*outside.*23\.\.90(.|\n)*rescale"),
        (RAMP, {"intensity": Intensity.window(-90, 0)}, r"0\.\.23 .*outside.*-90\.\.0"),
        (RAMP, {"spacing": (1e-4, 1e-4)}, r"30000x40000.*spacing(.|\n)*header"),
    ],
)
def test_a_scan_that_cannot_be_judged_is_refused(
    spec_of: Make, volume_of: Make, voxels: np.ndarray, settings_: dict[str, Any], said: str
) -> None:
    with pytest.raises(ScanError, match=said) as caught:
        prepare(volume_of(voxels), spec_of((4, 4), **settings_))
    assert caught.value.expected
    assert caught.value.hint


def test_the_first_voxel_that_is_not_finite_is_named_with_its_channel(spec_of: Make, volume_of: Make) -> None:
    with pytest.raises(ScanError, match=r"\(c, d, h, w\) = \(1, 1, 0, 2\)"):
        prepare(volume_of(np.stack([RAMP.astype(np.float64), broken(np.nan)])), spec_of((4, 4), channels=2))


def test_a_picture_without_spacing_needs_one_only_when_the_network_does(spec_of: Make, volume_of: Make) -> None:
    picture = volume_of(RAMP, calibrated=False)
    assert prepare(picture, spec_of((4, 4))).image.shape == (1, 2, 3, 4)
    with pytest.raises(ScanError, match="--pixel-spacing"):
        prepare(picture, spec_of((4, 4), spacing=(1.0, 1.0)))


def test_a_constant_scan_is_fine_when_values_are_left_alone(spec_of: Make, volume_of: Make) -> None:
    assert (prepare(volume_of(np.full((2, 3, 4), 7)), spec_of((4, 4))).image == 7).all()
