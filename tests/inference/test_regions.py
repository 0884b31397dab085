"""A sigmoid network: regions that may overlap, from the logits to the files."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medattn_edge.errors import MissingDependency, ScanError, UsageError
from medattn_edge.inference import Outputs, SegmentSettings, prepare, segment, segment_to
from medattn_edge.inference.dicom_results import label_settings
from medattn_edge.inference.resample import resample
from medattn_edge.inference.sliding_window import slabs
from medattn_edge.inference.truth import read_true_labels
from medattn_edge.installation import install_line
from medattn_edge.io import read_labels, read_regions, read_volume, write_labels, write_maps, write_regions
from medattn_edge.labels import Meaning
from medattn_edge.spec import Cleanup, Intensity, ModelSpec
from tests.support.sessions import make_volume

Make = Callable[..., Any]
NAMES = ("whole", "core", "enhancing")
MEANING = Meaning(NAMES, overlapping=True)
VOXELS = np.random.default_rng(0).normal(size=(5, 12, 10)).astype(np.float32)


def sigmoid(patch: tuple[int, ...] = (8, 8), **settings: Any) -> ModelSpec:
    settings = {"activation": "sigmoid", "intensity": Intensity(), **settings}
    return ModelSpec("fake", 1, NAMES, patch, (1,) * len(patch), **settings)


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "AIL"])
@pytest.mark.parametrize("spacing", [None, (1.7, 0.8, 1.2)], ids=["as scanned", "resampled"])
@pytest.mark.parametrize(("patch", "axes"), [((6, 7), "WH"), ((4, 6, 5), "DHW"), ((4, 6, 5), "WDH")])
def test_each_region_is_where_its_own_interpolated_logit_is_above_zero(
    fake: Make, network: Make, patch: tuple[int, ...], axes: str, spacing: Any, orientation: str
) -> None:
    spacing = spacing and spacing[3 - len(patch) :]
    spec = sigmoid(patch, axes=axes, spacing=spacing, orientation=orientation)
    session, volume = fake(spec, network(3)), make_volume(VOXELS)._permuted((1, 2, 0), (True, False, True))
    prepared = prepare(volume, spec)
    logits = np.concatenate([slab.logits for slab in slabs(session, prepared.image)], axis=1)
    back = prepared.way_back
    logits = resample(logits, {1 + axis: back[axis] for axis in back if axis == 0})
    logits = resample(logits, {1 + axis: back[axis] for axis in back if axis != 0})
    with_maps = segment(session, volume, settings=SegmentSettings(probabilities=True))
    assert with_maps.probabilities is not None
    for found in (with_maps, segment(session, volume, settings=SegmentSettings(threaded=False))):
        assert found.labels.affine.tobytes() == volume.affine.tobytes()
        bits = found.labels.like(prepared.oriented).voxels
        for bit, logit in enumerate(logits):
            np.testing.assert_array_equal(prepared.in_network_order(bits) >> bit & 1, logit > 0)
    probabilities = prepared.in_network_order(with_maps.probabilities.like(prepared.oriented).voxels)
    np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-logits)), atol=1e-6)
    counts = {name: int((logit > 0).sum()) for name, logit in zip(NAMES, logits, strict=True)}
    assert with_maps.voxel_counts == counts
    assert with_maps.volumes_ml == pytest.approx({name: count / 1000 for name, count in counts.items()})


def test_windows_of_air_are_in_no_region_and_what_they_cost_is_told_per_region(fake: Make, network: Make) -> None:
    voxels = np.full((4, 60, 60), -1000, np.int16)
    voxels[:, 4:12, 5:14] = 40
    spec = sigmoid((8, 8), intensity=Intensity.window(-1000, 400))
    settings = SegmentSettings(skip_air=True, check_skipped=True)
    found = segment(fake(spec, network(3)), make_volume(voxels), settings=settings)
    assert found.windows.skipped > 10
    assert not found.labels.voxels[:, 40:, 40:].any()
    assert found.windows.agreement is not None
    assert set(found.windows.agreement["dice"]) == set(NAMES)
    assert min(found.windows.agreement["dice"].values()) < 1


def test_regions_cannot_be_taken_for_label_values(fake: Make, network: Make, tmp_path: Path) -> None:
    found = segment(fake(sigmoid(), network(3)), make_volume(VOXELS))
    with pytest.raises(UsageError, match=r"may overlap(.|\n)*write_regions\(path, segmentation.regions"):
        write_labels(tmp_path / "out.npz", found.labels, found.names)
    write_regions(tmp_path / "out.npz", found.regions, found.meaning.names)
    written = read_regions(tmp_path / "out.npz")
    assert written is not None
    np.testing.assert_array_equal(written[0].voxels[1], found.labels.voxels >> 1 & 1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_maps(tmp_path / "scan.nrrd", make_volume(VOXELS[None]), ["ct"])
    write_labels(tmp_path / "scan.npz", make_volume((VOXELS * 20 + 100).astype(np.uint8)), ("background",))
    return tmp_path / "scan.npz"


@pytest.mark.parametrize("suffix", [".nii.gz", ".seg.nrrd", ".nrrd", ".npz"])
def test_without_an_order_each_region_is_a_map_of_its_own(
    fake: Make, network: Make, path: Path, suffix: str, tmp_path: Path
) -> None:
    session = fake(sigmoid(), network(3))
    outcome = segment_to(session, path, Outputs(tmp_path / f"out{suffix}", overlay=tmp_path / "o.png"))
    found = read_regions(tmp_path / f"out{suffix}")
    assert found is not None
    assert found[1] == NAMES
    labels = outcome.segmentation.labels.voxels
    for bit, region in enumerate(found[0].like(outcome.segmentation.labels).voxels):
        np.testing.assert_array_equal(region, labels >> bit & 1)
    assert any("may overlap: one map for each" in note for note in outcome.notes)
    assert outcome.to_json()["voxels"] == outcome.segmentation.voxel_counts
    assert read_volume(tmp_path / "o.png").channels == 3


def test_with_an_order_they_are_one_label_map_unless_maps_are_asked_for(
    fake: Make, network: Make, path: Path, tmp_path: Path
) -> None:
    session = fake(sigmoid(region_order=("core", "whole", "enhancing")), network(3))
    outcome = segment_to(session, path, tmp_path / "out.nii.gz")
    labels = outcome.segmentation.labels.voxels
    whole, core, enhancing = ((labels >> bit & 1).astype(bool) for bit in range(3))
    expected = np.where(enhancing, 3, np.where(whole, 2, np.where(core, 1, 0)))
    np.testing.assert_array_equal(
        read_labels(tmp_path / "out.nii.gz").like(outcome.segmentation.labels).voxels, expected
    )
    assert any("1 core, 2 whole, 3 enhancing" in note for note in outcome.notes)
    segment_to(session, path, Outputs(tmp_path / "maps.nii.gz", regions="maps"))
    found = read_regions(tmp_path / "maps.nii.gz")
    assert found is not None
    np.testing.assert_array_equal(found[0].like(outcome.segmentation.labels).voxels, np.stack([whole, core, enhancing]))


def test_what_a_file_cannot_hold_is_refused_before_the_network_runs(fake: Make, tmp_path: Path) -> None:
    def never(patches: np.ndarray) -> np.ndarray:
        raise AssertionError("the network was run")

    picture = tmp_path / "scan.npz"
    write_labels(picture, make_volume(np.zeros((1, 8, 8), np.uint8)), ("background",))
    ordered = sigmoid(region_order=NAMES)
    for spec, outputs, message in (
        (sigmoid(), Outputs(tmp_path / "out.png"), r"cannot hold regions that overlap(.|\n)*\.nii\.gz"),
        (ordered, Outputs(tmp_path / "out.png", regions="maps"), "cannot hold regions that overlap"),
        (sigmoid(), Outputs(tmp_path / "out.npz", regions="label-map"), r"(.|\n)*--region-order whole,core,enhancing"),
        (
            replace(sigmoid(), activation="softmax"),
            Outputs(tmp_path / "out.npz", regions="maps"),
            r"--regions maps for a softmax network",
        ),
    ):
        with pytest.raises(UsageError, match=message):
            segment_to(fake(spec, never), picture, outputs)
    with pytest.raises(UsageError, match=r"may overlap(.|\n)*--seg-kind binary"):
        Outputs(tmp_path / "seg.dcm", seg_kind="labelmap").check_spec(sigmoid())
    assert Outputs(tmp_path / "seg.dcm", seg_kind="labelmap").regions_as(ordered) == "label-map"
    assert Outputs(tmp_path / "seg.dcm").regions_as(ordered) == "maps"
    assert not list(tmp_path.glob("out.*"))


def test_what_is_done_after_the_network_is_another_object_in_dicom() -> None:
    specs = [
        sigmoid(),
        sigmoid(mirror="W"),
        sigmoid(cleanup=(Cleanup("largest", "core"),)),
        replace(sigmoid(), activation="softmax"),
    ]
    known = [label_settings(0.5, False, "x", spec, Outputs(Path("seg.dcm")).regions_as(spec)) for spec in specs]
    assert all(first != second for first, second in itertools.combinations(known, 2))
    assert label_settings(0.5, False, "x", specs[-1]) == {"backend": "x", "overlap": "0.5", "skip_air": False}


def test_mirroring_and_cleanup_are_told(fake: Make, network: Make, path: Path, tmp_path: Path) -> None:
    pytest.importorskip("scipy", reason="the extra cleanup is not installed")
    spec = sigmoid(mirror="HW", cleanup=(Cleanup("largest", "*"), Cleanup("drop-below", "core", 0.5)))
    notes = segment_to(fake(spec, network(3)), path, tmp_path / "out.npz").notes
    assert any("mirrored along H, W: every window is run 4 times" in note for note in notes)
    assert any("largest:*, drop-below:core:0.5" in note for note in notes)


def test_a_host_without_scipy_says_so_before_the_work(
    fake: Make, network: Make, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medattn_edge.inference.cleanup.find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=re.escape(install_line("cleanup"))):
        segment_to(fake(sigmoid(cleanup=(Cleanup("largest", "*"),)), network(3)), path, tmp_path / "out.npz")


def truth_of(tmp_path: Path, name: str = "truth.npz", names: tuple[str, ...] = NAMES) -> tuple[Any, Path]:
    scan = make_volume(VOXELS)
    maps = np.random.default_rng(1).integers(0, 2, (len(names), *VOXELS.shape)).astype(np.uint8)
    write_regions(tmp_path / name, scan.with_voxels(maps).oriented("RAS"), names)
    return scan.with_voxels(maps), tmp_path / name


def test_true_regions_are_found_by_name_in_any_order(tmp_path: Path) -> None:
    scan, path = truth_of(tmp_path, "truth.nii.gz", ("enhancing", "something", "whole", "core"))
    truth = read_true_labels(path, scan, MEANING, {})
    assert truth.voxels.dtype == np.uint8
    for bit, place in enumerate((2, 3, 0)):
        np.testing.assert_array_equal(truth.voxels >> bit & 1, scan.voxels[place])


def test_true_regions_without_names_are_found_by_number_when_it_is_given(tmp_path: Path) -> None:
    scan, path = truth_of(tmp_path, "truth.npz", ("", "", ""))
    with pytest.raises(UsageError, match=r"3 maps, none with a name(.|\n)*--label-value whole=1 --label-value core=2"):
        read_true_labels(path, scan, MEANING, {})
    truth = read_true_labels(path, scan, MEANING, {"whole": [1, 2, 3], "core": [3], "enhancing": [2]})
    for bit, expected in enumerate((scan.voxels.any(axis=0), scan.voxels[2], scan.voxels[1])):
        np.testing.assert_array_equal(truth.voxels >> bit & 1, expected)
    with pytest.raises(UsageError, match="names map 4"):
        read_true_labels(path, scan, MEANING, {"whole": [1], "core": [2], "enhancing": [4]})


def test_true_regions_of_a_label_map_may_share_its_values(tmp_path: Path) -> None:
    labels = make_volume(np.random.default_rng(1).choice([0, 1, 2, 4], VOXELS.shape).astype(np.uint8))
    write_labels(tmp_path / "brats.nii.gz", labels, ["background"])
    with pytest.raises(UsageError, match="does not say where regions overlap"):
        read_true_labels(tmp_path / "brats.nii.gz", labels, MEANING, {"whole": [1, 2, 4]})
    values = {"whole": [1, 2, 4], "core": [1, 4], "enhancing": [4]}
    truth = read_true_labels(tmp_path / "brats.nii.gz", labels, MEANING, values)
    for bit, numbers in enumerate(values.values()):
        np.testing.assert_array_equal(truth.voxels >> bit & 1, np.isin(labels.voxels, numbers))


def test_true_regions_that_are_missing_or_empty_are_refused(tmp_path: Path) -> None:
    scan, path = truth_of(tmp_path, "truth.npz", ("whole", "core", "other"))
    with pytest.raises(ScanError, match=r"no map of enhancing, but whole, core, other(.|\n)*--label-value"):
        read_true_labels(path, scan, MEANING, {})
    write_regions(path, scan.with_voxels(0 * scan.voxels), NAMES)
    with pytest.raises(ScanError, match=r"truth.npz has the values none but 0(.|\n)*--label-value core=VALUE"):
        read_true_labels(path, scan, MEANING, {})
    with pytest.raises(UsageError, match="names liver"):
        read_true_labels(path, scan, MEANING, {"liver": [1]})
