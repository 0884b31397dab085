"""Labels lie where the voxels are, whatever the grid of the scan and of the network."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medattn_edge.errors import BackendError, OutputError, UsageError
from medattn_edge.inference import SegmentSettings, prepare, segment
from medattn_edge.inference.resample import resample
from medattn_edge.inference.sliding_window import slabs
from medattn_edge.labels import labels_of, probabilities_of
from medattn_edge.volume import Volume

Make = Callable[..., Any]
ORDERS = list(itertools.permutations(range(3)))


def bright(patches: np.ndarray) -> np.ndarray:
    """One logit: above half of the box's brightness."""
    return patches - 50


def centre(labels: Volume) -> np.ndarray:
    """The centre of mass of label 1 in (L, P, S) mm."""
    return np.asarray(labels.point(*np.argwhere(labels.voxels == 1).mean(axis=0)))


@st.composite
def boxes(draw: st.DrawFn) -> tuple[Volume, tuple[float, float, float]]:
    """A scan of any orientation, tilt and spacing with one bright box; and the spacing along (S, P, L)."""
    spacing = draw(st.tuples(*[st.floats(0.5, 4)] * 3))
    shape = draw(st.tuples(*[st.integers(8, 24)] * 3))
    voxels = np.zeros(shape, np.int16)
    starts = [draw(st.integers(2, size - 6)) for size in shape]
    voxels[tuple(slice(start, start + draw(st.integers(3, 4))) for start in starts)] = 100
    angles = draw(st.tuples(*[st.floats(-0.3, 0.3)] * 3))
    turn = np.eye(3)
    for (i, j), angle in zip(((0, 1), (1, 2), (0, 2)), angles, strict=True):
        step = np.eye(3)
        step[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        turn = turn @ step
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0]]) * np.array(spacing)
    affine[:3, 3] = draw(st.tuples(*[st.floats(-300, 300)] * 3))
    order, flips = draw(st.sampled_from(ORDERS)), draw(st.tuples(*[st.booleans()] * 3))
    return Volume(voxels, affine)._permuted(order, flips), spacing


@settings(max_examples=60, deadline=None)
@given(boxes(), st.sampled_from([(8, 8), (6, 7, 8)]), st.sampled_from(ORDERS))
def test_labels_lie_exactly_on_the_bright_voxels(
    fake: Make, spec_of: Make, box: Any, patch: tuple[int, ...], order: tuple[int, ...]
) -> None:
    volume, _ = box
    axes = "HW" if len(patch) == 2 else "".join("DHW"[axis] for axis in order)
    found = segment(fake(spec_of(patch, 1, axes=axes), bright), volume).labels
    np.testing.assert_array_equal(found.voxels == 1, volume.voxels == 100)
    assert found.affine.tobytes() == volume.affine.tobytes()
    assert found.voxels.dtype == np.uint8


@settings(max_examples=60, deadline=None)
@given(boxes(), st.sampled_from([(8, 8), (6, 7, 8)]), st.sampled_from(ORDERS), st.tuples(*[st.floats(0.6, 1.4)] * 3))
def test_labels_stay_at_their_point_in_the_patient_when_resampled(
    fake: Make, spec_of: Make, box: Any, patch: tuple[int, ...], order: tuple[int, ...], ratios: tuple[float, ...]
) -> None:
    volume, spacing = box
    wanted = tuple(mm * ratio for mm, ratio in zip(spacing, ratios, strict=True))[3 - len(patch) :]
    axes = "HW" if len(patch) == 2 else "".join("DHW"[axis] for axis in order)
    found = segment(fake(spec_of(patch, 1, axes=axes, spacing=wanted), bright), volume).labels
    truth = volume.with_voxels((volume.voxels == 100).astype(np.uint8))
    away = volume.index(centre(found)) - volume.index(centre(truth))
    assert (np.abs(away) <= 0.5).all(), away
    assert found.affine.tobytes() == volume.affine.tobytes()


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(
        st.tuples(*[st.integers(1, 14)] * 3),
        st.sampled_from([(6, 7), (4, 6, 5)]),
        st.tuples(*[st.sampled_from([0.5, 0.6, 1.0, 1.7, 30.0])] * 3),
        st.sampled_from(ORDERS),
    )
)
def test_streaming_back_equals_resampling_all_logits(
    fake: Make, spec_of: Make, volume_of: Make, network: Make, case: Any
) -> None:
    """Also where an axis of the network's grid, or of the scan, is one voxel long."""
    shape, patch, spacing, order = case
    three = len(patch) == 3
    axes = "".join("DHW"[axis] for axis in order) if three else "HW"
    spec = spec_of(patch, 3, axes=axes, spacing=spacing[3 - len(patch) :])
    volume = volume_of(np.random.default_rng(0).normal(size=shape))
    session = fake(spec, network(3))
    prepared = prepare(volume, spec)
    logits = np.concatenate([slab.logits for slab in slabs(session, prepared.image)], axis=1)
    back = prepared.way_back
    logits = resample(logits, {1 + axis: back[axis] for axis in back if axis == 0})
    logits = resample(logits, {1 + axis: back[axis] for axis in back if axis != 0})
    result = segment(session, volume, settings=SegmentSettings(probabilities=True))
    np.testing.assert_array_equal(prepared.in_network_order(result.labels.voxels), logits.argmax(axis=0))
    probabilities = prepared.in_network_order(result.probabilities.voxels)
    np.testing.assert_allclose(probabilities, probabilities_of(logits, "softmax"), atol=1e-6)


@pytest.mark.parametrize("classes", [1, 2, 5, 300])
def test_labels_are_the_first_of_the_largest_logits(classes: int) -> None:
    logits = np.random.default_rng(0).integers(-3, 4, (classes, 4, 5, 6)).astype(np.float32)
    expected = logits[0] > 0 if classes == 1 else logits.argmax(axis=0)
    found = labels_of(logits, "softmax")
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == (np.uint16 if classes > 256 else np.uint8)


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_probabilities_add_up_and_do_not_overflow(classes: int) -> None:
    logits = np.random.default_rng(0).normal(0, 1e4, (classes, 3, 4, 5)).astype(np.float32)
    found = probabilities_of(logits, "softmax")
    assert found.dtype == np.float32
    assert found.shape == (max(classes, 2), 3, 4, 5)
    np.testing.assert_allclose(found.sum(axis=0), 1, rtol=1e-6)
    np.testing.assert_array_equal(found.argmax(axis=0), labels_of(logits, "softmax"))


def test_one_logit_gives_the_sigmoid() -> None:
    found = probabilities_of(np.array([[-1.0, 0.0, 2.0]], np.float32), "softmax")
    np.testing.assert_allclose(found[1], 1 / (1 + np.exp([1.0, 0.0, -2.0])), rtol=1e-6)


def test_volumes_are_millilitres_and_nothing_for_a_picture(fake: Make, spec_of: Make, volume_of: Make) -> None:
    voxels = np.zeros((4, 8, 8), np.int16)
    voxels[1:3, 2:5, 2:6] = 100
    session = fake(spec_of((8, 8), 1), bright)
    assert segment(session, volume_of(voxels, (5.0, 2.0, 1.0))).volumes_ml == {"label_1": pytest.approx(24 * 10 / 1000)}
    assert segment(session, volume_of(voxels, calibrated=False)).volumes_ml == {}


def test_attention_comes_back_on_the_scan(fake: Make, spec_of: Make, volume_of: Make) -> None:
    volume = volume_of(np.random.default_rng(0).normal(size=(5, 9, 10)).astype(np.float32))._permuted(
        (1, 2, 0), (True, False, True)
    )
    session = fake(spec_of((4, 6), 1), bright, attention=np.copy)
    result = segment(session, volume, settings=SegmentSettings(attention=True))
    assert result.attention_names == ("gate",)
    np.testing.assert_allclose(result.attention.voxels[0], volume.voxels, atol=1e-5)
    with pytest.raises(UsageError, match="--attention"):
        segment(fake(spec_of((4, 6), 1), bright), volume, settings=SegmentSettings(attention=True))


def test_large_maps_go_to_a_scratch_file_that_leaves_nothing_behind(
    fake: Make, spec_of: Make, volume_of: Make, tmp_path: Path
) -> None:
    volume = volume_of(np.random.default_rng(0).normal(size=(5, 9, 10)))
    session = fake(spec_of((4, 6), 1), bright)
    in_memory = segment(session, volume, settings=SegmentSettings(probabilities=True, scratch=tmp_path))
    on_disk_only = SegmentSettings(probabilities=True, scratch=tmp_path, in_memory_bytes=0)
    on_disk = segment(session, volume, settings=on_disk_only)
    assert isinstance(on_disk.probabilities.voxels, np.memmap)
    np.testing.assert_array_equal(on_disk.probabilities.voxels, in_memory.probabilities.voxels)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OutputError, match="--scratch"):
        segment(session, volume, settings=replace(on_disk_only, scratch=tmp_path / "absent"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_never_labels(fake: Make, spec_of: Make, volume_of: Make, value: float) -> None:
    def broken(patches: np.ndarray) -> np.ndarray:
        answer = np.repeat(patches, 2, axis=1)
        answer[:, 1, 0, 0] = value
        return answer

    volume = volume_of(np.random.default_rng(0).normal(size=(3, 12, 12)))
    for spacing in (None, (0.7, 0.7)):
        with pytest.raises(BackendError, match=r"not finite(.|\n)*fp32"):
            segment(fake(spec_of((8, 8), 2, spacing=spacing), broken), volume)


def test_progress_arrives_at_its_end(fake: Make, spec_of: Make, volume_of: Make) -> None:
    said: list[tuple[int, int]] = []
    # Five rows of the network in one of the scan: its last rows lie outside the last voxel's centre.
    session = fake(spec_of((1, 4, 4), 1, spacing=(0.2, 1.0, 1.0)), np.copy)
    volume = volume_of(np.random.default_rng(0).normal(size=(3, 5, 5)))
    segment(session, volume, settings=SegmentSettings(batch=1), progress=lambda done, total: said.append((done, total)))
    assert said[-1][0] == said[-1][1]
    assert said == sorted(said)


@pytest.mark.parametrize("threaded", [True, False])
@pytest.mark.parametrize("spacing", [None, (2.0, 1.5, 1.5)])
def test_memory_grows_by_the_image_and_the_labels_alone(
    fake: Make, spec_of: Make, volume_of: Make, spacing: Any, threaded: bool
) -> None:
    classes, plane = 32, 48 * 48
    peaks = []
    for depth in (64, 128):
        volume = volume_of(np.random.default_rng(0).integers(0, 99, (depth, 48, 48), np.int16))
        session = fake(spec_of((16, 24, 24), classes, spacing=spacing), lambda patches: np.repeat(patches, classes, 1))
        tracemalloc.start()
        segment(session, volume, settings=SegmentSettings(threaded=threaded))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # The image is 4 bytes a voxel, the labels 1; K x volume would be 128. With threads it is chance what meets.
    assert peaks[1] - peaks[0] < (24 if threaded else 6) * 64 * plane
