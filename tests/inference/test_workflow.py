"""One call from a scan on disk to the files that are asked for, with an open session or an artifact's path."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medattn_edge.errors import BackendError, ScanError, UsageError
from medattn_edge.inference import OpenArtifact, Outputs, SegmentSettings, segment, segment_to
from medattn_edge.io import Scan, read_labels, read_volume, write_labels
from tests.support.sessions import make_volume

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
