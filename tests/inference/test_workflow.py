"""One call from a scan on disk to the files that are asked for, with an open session or an artifact's path."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medattn_edge.errors import BackendError, ScanError, UsageError
from medattn_edge.inference import OpenArtifact, Outputs, SegmentSettings, segment, segment_to
from medattn_edge.io import Scan, read_labels, read_volume, write_labels
from tests.support.sessions import make_spec, make_volume

Make = Callable[..., Any]
VOXELS = np.random.default_rng(0).integers(0, 200, (5, 24, 20)).astype(np.uint16)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A scan of 5 x 24 x 20 voxels, 4 x 1.5 x 1.25 mm."""
    write_labels(tmp_path / "scan.npz", make_volume(VOXELS, (4.0, 1.5, 1.25)), ("background",))
    return tmp_path / "scan.npz"


@pytest.fixture
def session(fake: Make, spec_of: Make, network: Make) -> Any:
    return fake(spec_of((8, 8), 3), network(3), attention=network(1))


def test_labels_maps_and_picture_are_written_and_told(session: Any, path: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    outputs = Outputs(out / "labels.nrrd", out / "probabilities.npz", out / "attention.npz", out / "overlay.png")
    progress: list[tuple[int, int]] = []
    outcome = segment_to(session, path, outputs, progress=lambda done, total: progress.append((done, total)))
    assert {what: file.name for what, file in outcome.written.items()} == {
        "labels": "labels.nrrd",
        "probabilities": "probabilities.npz",
        "attention": "attention.npz",
        "overlay": "overlay.png",
    }
    assert sorted(out.iterdir()) == sorted(outcome.written.values())
    expected = segment(session, read_volume(path), settings=SegmentSettings(probabilities=True, attention=True))
    np.testing.assert_array_equal(read_labels(out / "labels.nrrd").voxels, expected.labels.voxels)
    np.testing.assert_array_equal(read_volume(out / "probabilities.npz").voxels, expected.probabilities.voxels)
    np.testing.assert_array_equal(read_volume(out / "attention.npz").voxels, expected.attention.voxels)
    assert progress[-1] == (outcome.segmentation.windows.total,) * 2
    document = json.loads(json.dumps(outcome.to_json(), allow_nan=False))
    assert document["voxels"] == expected.voxel_counts
    assert document["volumes_ml"] == pytest.approx(expected.volumes_ml)
    assert sum(document["voxels"].values()) == np.count_nonzero(expected.labels.voxels)
    assert document["series"] is None
    assert set(document["seconds"]) == {"read", "infer", "write"}


def test_a_path_stands_for_the_labels_and_nothing_else_is_made(session: Any, path: Path, tmp_path: Path) -> None:
    outcome = segment_to(session, str(path), str(tmp_path / "labels.npz"))
    assert outcome.written == {"labels": tmp_path / "labels.npz"}
    assert outcome.segmentation.probabilities is None is outcome.segmentation.attention
    assert sorted(file.name for file in tmp_path.iterdir()) == ["labels.npz", "scan.npz"]


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ({"labels": "scan.npz"}, "the scan itself"),
        ({"labels": "labels.xyz"}, "no suffix that is known"),
        ({"labels": "a.npz", "probabilities": "a.npz"}, "the same name"),
        ({"labels": "a.npz", "overlay": "a.jpg"}, "a .png"),
        ({"labels": "a.npz", "seg_kind": "binary"}, "--seg-kind"),
        ({"labels": "a.npz", "key_slices": 2}, "--key-slices"),
        ({"labels": "seg.dcm"}, "a DICOM series"),
    ],
)
def test_what_cannot_be_written_is_refused_before_the_network_runs(
    session: Any, path: Path, tmp_path: Path, outputs: dict[str, Any], words: str
) -> None:
    files = {key: tmp_path / value if key in ("labels", "probabilities", "overlay") else value
             for key, value in outputs.items()}  # fmt: skip
    with pytest.raises(UsageError, match=words):
        segment_to(session, path, Outputs(**files))
    assert session.seen == []
    assert [file.name for file in tmp_path.iterdir()] == ["scan.npz"]


def test_the_scans_error_is_raised_where_the_artifact_cannot_be_opened_either(path: Path, tmp_path: Path) -> None:
    with pytest.raises(ScanError, match="absent"):
        segment_to(tmp_path / "absent.onnx", tmp_path / "absent.npz", tmp_path / "labels.npz")


def test_nothing_is_written_where_the_network_fails(fake: Make, spec_of: Make, path: Path, tmp_path: Path) -> None:
    broken = fake(spec_of((8, 8), 1), lambda patches: patches * np.float32("nan"))
    with pytest.raises(BackendError, match="not finite"):
        segment_to(broken, path, tmp_path / "labels.npz")
    assert [file.name for file in tmp_path.iterdir()] == ["scan.npz"]


def test_what_skipping_changed_is_measured_on_request(fake: Make, spec_of: Make, volume_of: Make) -> None:
    voxels = np.full((2, 32, 32), -1000, np.int16)
    voxels[:, :8, :8] = 50
    session = fake(spec_of((8, 8), 1), lambda patches: patches + 2000)  # air is an organ to it
    settings = SegmentSettings(overlap=0, skip_air=True, check_skipped=True)
    windows = segment(session, volume_of(voxels), settings=settings).windows
    assert windows.skipped > 0
    kept = 1 - windows.skipped / windows.total
    assert windows.agreement["label_match"] == pytest.approx(kept)
    assert windows.agreement["dice"]["label_1"] == pytest.approx(2 * kept / (1 + kept))
    assert "agreement" not in segment(session, volume_of(voxels), settings=SegmentSettings()).windows.to_json()
    with pytest.raises(UsageError, match="--skip-air"):
        segment(session, volume_of(voxels), settings=SegmentSettings(check_skipped=True))


def test_a_picture_takes_the_spacing_that_it_is_given(session: Any, tmp_path: Path) -> None:
    pytest.importorskip("PIL", reason="the extra image is not installed")
    from PIL import Image

    Image.fromarray(VOXELS[0].astype(np.uint8)).save(tmp_path / "scan.png")
    plain = segment_to(session, tmp_path / "scan.png", tmp_path / "labels.npz")
    assert plain.to_json()["volumes_ml"] == {}
    known = segment_to(session, Scan(tmp_path / "scan.png", pixel_spacing=(2.0, 3.0)), tmp_path / "labels.npz")
    counts = known.segmentation.voxel_counts
    assert known.segmentation.volumes_ml == pytest.approx({name: 6 * count / 1000 for name, count in counts.items()})


def test_a_series_becomes_the_objects_of_an_open_artifact(session: Any, tmp_path: Path) -> None:
    pytest.importorskip("highdicom", reason="the extra dicom is not installed")
    from medattn_edge.io.dicom.uids import Algorithm
    from tests.support.dicom_phantoms import real_ct, write_series

    ct = real_ct(5, 48, 44)
    write_series(tmp_path / "in", ct.voxels, ct.affine)
    outputs = Outputs(tmp_path / "seg.dcm", key_slices=2, overlay=tmp_path / "overlay.png")
    with pytest.raises(UsageError, match="OpenArtifact"):
        segment_to(session, tmp_path / "in", outputs)
    opened = OpenArtifact(session, Algorithm("fake", "1", "0" * 64, "overlap=0.5"))
    outcome = segment_to(opened, tmp_path / "in", outputs)
    assert set(outcome.written) == {"labels", "key slice 1", "key slice 2", "overlay"}
    assert all(path.is_file() for path in outcome.written.values())
    series = outcome.scan.series
    assert series is not None
    assert outcome.to_json()["series"] == {"series_hash": series.hash, "modality": "CT", "slices": 5}
    assert series.series_instance_uid not in json.dumps(outcome.to_json())


def channel_files(tmp_path: Path) -> list[Path]:
    """Two scans of one grid with other voxels, t1.npz and t2.npz."""
    paths = [tmp_path / "t1.npz", tmp_path / "t2.npz"]
    for path, voxels in zip(paths, (VOXELS, VOXELS[::-1].copy()), strict=True):
        write_labels(path, make_volume(voxels, (4.0, 1.5, 1.25)), ("background",))
    return paths


def test_several_scans_are_segmented_as_the_channels_of_one_volume(fake: Make, network: Make, tmp_path: Path) -> None:
    spec = replace(make_spec((8, 8), 3, 2), channels=("t1", "t2"))
    weights = np.array([1, 2], np.float32).reshape(1, 2, 1, 1)  # the channels have to be told apart
    session, (t1, t2) = fake(spec, lambda patches: network(3)(patches * weights)), channel_files(tmp_path)
    both = make_volume(np.stack([VOXELS, VOXELS[::-1]]), (4.0, 1.5, 1.25))
    expected = segment(session, both).labels.voxels
    assert not np.array_equal(expected, segment(session, both.with_voxels(both.voxels[::-1])).labels.voxels)
    for given in (f"{t1}+{t2}", f"t2={t2}+t1={t1}"):
        outcome = segment_to(session, given, tmp_path / "labels.npz")
        np.testing.assert_array_equal(read_labels(tmp_path / "labels.npz").voxels, expected)
        assert outcome.to_json()["channels"] == ["t1 <- t1.npz", "t2 <- t2.npz"]
    with pytest.raises(UsageError, match="would be the channel t1"):
        segment_to(session, f"{t2}+{t1}", tmp_path / "labels.npz")
    for path in (t1, t2):
        with pytest.raises(UsageError, match="the scan itself"):
            segment_to(session, f"{t1}+{t2}", path)
    with pytest.raises(ScanError, match="expected 2 channel") as raised:
        segment_to(session, t1, tmp_path / "labels.npz")
    assert "t1=SCAN+t2=SCAN" in raised.value.hint


def test_patches_of_channels_are_those_of_the_stacked_volume(spec_of: Make, tmp_path: Path) -> None:
    from medattn_edge.inference.real_patches import real_patches
    from medattn_edge.inference.samples import sample_patches
    from medattn_edge.precision.windows import ScanSource, TiledScan

    spec, (t1, t2) = replace(make_spec((8, 8), 3, 2), channels=("t1", "t2")), channel_files(tmp_path)
    both = make_volume(np.stack([VOXELS, VOXELS[::-1]]), (4.0, 1.5, 1.25))
    given = f"t2={t2}+t1={t1}"
    ((name, patches),) = real_patches(spec, [given], 4).items()
    assert name == "t1=t1.npz+t2=t2.npz"
    np.testing.assert_array_equal(patches, sample_patches(both, spec, 4))
    source = ScanSource.of(given, spec=spec)
    assert source.name == name
    assert TiledScan(source, spec).digest == TiledScan(ScanSource.of(both), spec).digest
    with pytest.raises(UsageError, match="2 scans for a network of 1 channel"):
        ScanSource.of(given, spec=spec_of((8, 8), 3))
    with pytest.raises(UsageError, match="comes twice"):
        real_patches(spec, [f"{t1}+{t2}", f"{t1}+{t2}"], 4)
