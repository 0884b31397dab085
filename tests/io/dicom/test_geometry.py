"""Slices to a grid: for any scanner's directions and any order of the files, and for every way to spoil one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("pydicom", reason="the extra dicom is not installed")

from medattn_edge.io.dicom.geometry import grid_of
from medattn_edge.io.dicom.volume import ImagePlane, RefusedSeries, find_series, read_series, series_of
from medattn_edge.reasons import SERIES_REASONS
from medattn_edge.volume import Array
from tests.support.dicom_phantoms import in_plane, real_ct, write_medium, write_series
from tests.support.image_planes import STORAGE, planes


def turned(angles: tuple[float, float, float]) -> Array:
    """A rotation (columns: slices, down, right), right-handed as right x down = normal."""
    a, b, c = angles
    first = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    second = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    third = np.array([[np.cos(c), 0, np.sin(c)], [0, 1, 0], [-np.sin(c), 0, np.cos(c)]])
    rotation: Array = first @ second @ third
    right, down = rotation[:, 0], rotation[:, 1]
    return np.column_stack([np.cross(right, down), down, right])


angle = st.floats(-3.1, 3.1)
step = st.floats(0.3, 9)
grids = st.tuples(st.tuples(angle, angle, angle), st.tuples(step, step, step), st.tuples(*[st.floats(-900, 900)] * 3))


def affine_of(drawn: tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]) -> Array:
    affine = np.eye(4)
    affine[:3, :3] = turned(drawn[0]) * drawn[1]  # type: ignore[arg-type]
    affine[:3, 3] = drawn[2]
    return affine


@given(drawn=grids, order=st.permutations(range(7)))
@settings(max_examples=60, deadline=None)
def test_slices_in_any_order_and_direction_give_their_own_affine(drawn, order) -> None:
    affine = affine_of(drawn)
    grid = grid_of(planes(affine, [float(height) for height in order]))
    assert np.allclose(grid.affine, affine, atol=1e-6)
    assert [order[int(plane.path.name)] for plane in grid.planes] == list(range(7))


@given(drawn=grids, order=st.permutations(range(7)), lost=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_a_slice_that_is_missing_copied_or_displaced_is_seen(drawn, order, lost) -> None:
    affine = affine_of(drawn)
    heights = [float(height) for height in order]

    def reason(changed: list[float]) -> str:
        with pytest.raises(RefusedSeries) as caught:
            grid_of(planes(affine, changed))
        assert caught.value.reason in SERIES_REASONS
        return caught.value.reason

    assert reason([height for height in heights if height != lost]) == "missing_slice"
    assert reason([*heights, float(lost)]) == "duplicate_position"
    assert reason([height + 0.3 * (height == lost) for height in heights]) == "non_uniform_spacing"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda plane: replace(plane, storage=replace(STORAGE, rows=39)), "mixed_series"),
        (lambda plane: replace(plane, storage=replace(STORAGE, photometric="MONOCHROME1")), "mixed_series"),
        (lambda plane: replace(plane, spacing=(plane.spacing[0] * 1.01, plane.spacing[1])), "mixed_series"),
        (lambda plane: replace(plane, units="US"), "mixed_series"),
        (lambda plane: replace(plane, right=plane.down, down=plane.right), "mixed_orientation"),
        (lambda plane: replace(plane, kinds=(("EchoTime", "2"),)), "several_volumes"),
        (lambda plane: replace(plane, position=(plane.position[0] + 2, *plane.position[1:])), "shifted_slice"),
    ],
)
def test_one_slice_of_another_kind_refuses_the_stack(change: Callable[[ImagePlane], ImagePlane], reason: str) -> None:
    affine = affine_of(((0.0, 0.0, 0.0), (3.0, 1.0, 1.0), (0.0, 0.0, 0.0)))
    stack = planes(affine, [0.0, 1, 2, 3, 4])
    stack[3] = change(stack[3])
    with pytest.raises(RefusedSeries) as caught:
        grid_of(stack)
    assert caught.value.reason == reason


@pytest.mark.parametrize(("degrees", "refused"), [(0.05, False), (1.0, True), (15.0, True)])
def test_a_tilted_gantry_is_seen_from_a_degree_on(degrees: float, refused: bool, tmp_path: Path) -> None:
    scan = real_ct()
    affine = np.array(scan.affine)
    affine[:3, 0] += np.linalg.norm(affine[:3, 0]) * np.tan(np.radians(degrees)) * affine[:3, 1] / 1.5
    write_series(tmp_path, scan.voxels, affine)
    (series,) = find_series(tmp_path)
    assert series.reason == ("gantry_tilt" if refused else None)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal", "oblique"])
def test_a_list_of_files_is_the_series_that_their_folder_is(plane: str, tmp_path: Path) -> None:
    scan = in_plane(real_ct(), plane)
    paths = write_series(tmp_path, scan.voxels, scan.affine)
    (one,), (other,) = find_series(tmp_path), series_of(paths[::-1])
    assert one.hash == other.hash
    assert read_series(one).voxels.tobytes() == read_series(other).voxels.tobytes()
    assert np.array_equal(read_series(one).affine, read_series(other).affine)


def test_an_instance_uid_that_is_used_twice_cannot_be_referred_to(tmp_path: Path) -> None:
    scan = real_ct()
    write_series(tmp_path, scan.voxels, scan.affine, SOPInstanceUID=lambda index: f"1.2.{min(index, 4)}")
    (series,) = find_series(tmp_path)
    assert series.reason == "blank_uid"
    assert "6 slices have 5 different" in series.detail


def test_a_dicomdir_whose_files_are_gone_is_refused_for_them(tmp_path: Path) -> None:
    scan = real_ct()
    directory = write_medium(write_series(tmp_path / "in", scan.voxels, scan.affine), tmp_path / "medium")
    (series,) = find_series(directory)
    assert np.array_equal(read_series(series).voxels, scan.voxels)
    files = [path for path in (tmp_path / "medium").rglob("*") if path.is_file() and path.name != "DICOMDIR"]
    for count, path in enumerate(sorted(files), start=1):
        path.unlink()
        (series,) = find_series(directory)
        assert series.reason == "missing_file"
        assert f"{count} files" in series.detail
        with pytest.raises(RefusedSeries, match="missing_file"):
            read_series(series)
