"""Parametric maps: what other readers find is our probabilities, where they were found."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medattn_edge.errors import GeometryError, InputError, OutputError, UsageError
from medattn_edge.inference.outputs import Outputs
from medattn_edge.volume import Volume
from tests.support.sessions import make_spec

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
pytest.importorskip("highdicom", reason="the extra dicom is not installed")

from medattn_edge.io.dicom.parametric_map import ParametricMapFile, check_size, write_parametric_map  # noqa: E402
from medattn_edge.io.dicom.volume import RefusedSeries, Series  # noqa: E402
from tests.io.dicom.test_seg import ALGORITHM, PLANES, listed_again, send, tool  # noqa: E402
from tests.support.dicom_phantoms import in_plane  # noqa: E402

NAMES = ("background", "right_lung", "läsion")


def maps_of(scan: Volume) -> Volume:
    """Three maps that differ in every voxel, and sum up to 1."""
    values = np.random.default_rng(0).random((len(NAMES), *scan.shape), dtype=np.float32)
    return scan.with_voxels(values / values.sum(0))


def write(path: Path, maps: Volume, series: Series, names: Any = NAMES) -> ParametricMapFile:
    return write_parametric_map(path, maps, names, series, ALGORITHM)


def placed(dataset: Any) -> dict[tuple[str, tuple[float, ...]], np.ndarray[Any, Any]]:
    """(what a frame shows, where its first voxel lies) -> its real-world values, read with pydicom alone."""
    stored = np.frombuffer(dataset.FloatPixelData, "<f4").reshape(-1, dataset.Rows, dataset.Columns)
    found = {}
    for values, frame in zip(stored, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        groups = [*frame, *dataset.SharedFunctionalGroupsSequence[0]]
        meaning = next(one for one in groups if one.keyword == "RealWorldValueMappingSequence")[0]
        place = tuple(map(float, frame.PlanePositionSequence[0].ImagePositionPatient))
        slope, intercept = meaning.RealWorldValueSlope, meaning.RealWorldValueIntercept
        found[meaning.LUTExplanation, place] = values * slope + intercept
    return found


@pytest.mark.parametrize("enhanced", [False, True], ids=["single", "enhanced"])
@pytest.mark.parametrize("plane", PLANES)
def test_every_value_is_read_where_it_lies_and_dciodvfy_finds_no_error(scan, plane, enhanced, tmp_path) -> None:
    acquired = in_plane(scan, plane)
    series = send(tmp_path / "series", acquired, enhanced=enhanced)
    maps = maps_of(acquired)
    file = write(tmp_path / "maps.dcm", maps.oriented("RAS"), series)
    dataset = pydicom.dcmread(tmp_path / "maps.dcm")
    found = placed(dataset)
    assert len(found) == file.frames == len(NAMES) * acquired.shape[0]
    for number, name in enumerate(NAMES):
        for index in range(acquired.shape[0]):
            first = (acquired.affine @ (index, 0, 0, 1))[:3]
            said = f"probability of {name}"
            place = next(where for what, where in found if what == said and np.allclose(where, first, atol=1e-2))
            np.testing.assert_array_equal(found[said, place], maps.voxels[number, index])
    done = subprocess.run(
        [tool("dciodvfy"), "-new", tmp_path / "maps.dcm"], capture_output=True, text=True, check=False
    )
    assert "ParametricMap" in done.stderr.splitlines()[0]
    assert [line for line in done.stderr.splitlines() if line.startswith("Error")] == []


def test_pydicom_decodes_the_same_frames(scan, sent, tmp_path) -> None:
    maps = maps_of(scan)
    write(tmp_path / "maps.dcm", maps, sent)
    frames = pydicom.dcmread(tmp_path / "maps.dcm").pixel_array
    assert len(frames) == maps.voxels.shape[0] * maps.voxels.shape[1]
    wanted = maps.voxels.reshape(-1, *frames.shape[1:])
    assert all(any(np.array_equal(frame, one) for one in wanted) for frame in frames[:3])


def test_the_same_series_gives_the_same_bytes_in_any_order_of_its_files(scan, sent, tmp_path) -> None:
    maps = maps_of(scan)
    write(tmp_path / "a.dcm", maps, sent)
    write(tmp_path / "b.dcm", maps, listed_again(sent, tmp_path / "again"))
    assert (tmp_path / "a.dcm").read_bytes() == (tmp_path / "b.dcm").read_bytes()


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (lambda voxels: voxels + 1, NAMES),
        (lambda voxels: -voxels, NAMES),
        (lambda voxels: voxels * np.nan, NAMES),
        (lambda voxels: voxels[0], NAMES),
        (lambda voxels: (voxels * 255).astype(np.uint8), NAMES),
        (lambda voxels: voxels, NAMES[:2]),
    ],
    ids=["above", "below", "nan", "one map", "integers", "names"],
)
def test_what_is_no_probability_is_refused_and_nothing_is_written(scan, sent, tmp_path, change, names) -> None:
    maps = maps_of(scan)
    with pytest.raises(UsageError, match="probabilities from 0 to 1"):
        write(tmp_path / "maps.dcm", maps.with_voxels(change(maps.voxels)), sent, names)
    assert list(tmp_path.iterdir()) == []


def test_maps_of_four_gib_are_refused_before_the_work_and_those_of_a_voxel_less_are_not(scan, tmp_path) -> None:
    check_size((1, 1, 1, 2**30 - 1))
    with pytest.raises(InputError, match=r"4\.0 GiB(.|\n)*--probabilities maps\.nii\.gz"):
        check_size((2, 512, 1024, 1024))
    spec = make_spec((8, 8, 8), classes=2)
    large = Volume(np.broadcast_to(np.float32(0), (512, 1024, 1024)), np.eye(4))
    outputs = Outputs(tmp_path / "seg.dcm", probabilities=tmp_path / "maps.dcm")
    with pytest.raises(InputError, match="probabilities = false"):
        outputs.check_size(spec, large)
    outputs.check_size(spec, scan)
    replace(outputs, probabilities=tmp_path / "maps.nii.gz").check_size(spec, large)


def test_another_grid_a_series_without_coordinates_and_a_folder_that_is_gone_are_refused(scan, sent, tmp_path) -> None:
    maps = maps_of(scan)
    with pytest.raises(GeometryError):
        write(tmp_path / "maps.dcm", Volume(maps.voxels[:, 1:], maps.affine), sent)
    with pytest.raises(OutputError):
        write(tmp_path / "nowhere" / "maps.dcm", maps, sent)
    lost = send(tmp_path / "lost", scan, FrameOfReferenceUID="")
    with pytest.raises(RefusedSeries, match="FrameOfReferenceUID"):
        write(tmp_path / "maps.dcm", maps, lost)
