"""infer: what is left out is said, the batch can be measured, threads are set, compiled models are kept on request."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from medattn_edge.host.cores import usable_cores
from medattn_edge.io import read_labels
from tests.support.scans import write_nifti
from tests.support.sessions import make_volume

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scan in HU with much air around a small body: 4 x 200 x 200 at 3 mm."""
    rng = np.random.default_rng(5)
    voxels = rng.normal(-1000, 5, (4, 200, 200))
    voxels[:, 90:120, 80:110] = rng.normal(0, 100, (4, 30, 30))
    volume = make_volume(voxels.astype(np.int16), (5.0, 3.0, 3.0))
    return write_nifti(tmp_path_factory.mktemp("wide") / "wide.nii.gz", volume)


def document(done: Any) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_nothing_is_left_out_unless_it_is_asked_for(medattn: Run, artifact: Path, wide: Path, tmp_path: Path) -> None:
    plain = document(medattn("infer", artifact, wide, "-o", tmp_path / "plain.npz", "--json"))
    assert plain["windows"]["skipped"] == plain["windows"]["checked"] == 0
    words = ("infer", artifact, wide, "-o", tmp_path / "less.npz", "--skip-air")
    less = document(medattn(*words, "--check-skipped", "--json"))["windows"]
    assert less["total"] == plain["windows"]["total"]
    assert 0.5 < less["skipped"] / less["total"] < 1
    assert less["checked"] == -(-less["skipped"] // 16)
    first, second = (read_labels(tmp_path / f"{name}.npz").voxels for name in ("plain", "less"))
    assert less["agreement"]["label_match"] == (first == second).mean()
    assert set(less["agreement"]["dice"]) == {"right_lung", "left_lung"}
    done = medattn(*words)
    assert f"left out: {less['skipped']} of {less['total']} windows" in done.stdout
    assert f"checked: {less['checked']} of these" in done.stdout
    done = medattn(*words, "--check-skipped")
    assert "with nothing left out:" in done.stdout


def test_a_scan_without_air_is_left_whole(medattn: Run, artifact: Path, scan: Path, tmp_path: Path) -> None:
    done = medattn("infer", artifact, scan, "-o", tmp_path / "l.npz", "--skip-air", "--check-skipped")
    assert done.returncode == 0, done.stderr
    assert "left out: 0 of" in done.stdout
    done = medattn("infer", artifact, scan, "-o", tmp_path / "l.npz", "--check-skipped")
    assert done.returncode == 2
    assert "--skip-air" in done.stderr


def test_the_batch_is_measured_on_request(medattn: Run, artifact: Path, scan: Path, tmp_path: Path) -> None:
    words = ("infer", artifact, scan, "-o", tmp_path / "l.npz", "--json", "--batch")
    assert document(medattn(*words, "auto"))["windows"]["batch"] in (1, 2, 4, 8)
    assert document(medattn(*words, "3"))["windows"]["batch"] == 3
    for wrong in ("0", "-1", "many", "1.5"):
        done = medattn(*words, wrong)
        assert done.returncode == 2
        assert "auto" in done.stdout


def test_threads_are_the_usable_cores_unless_they_are_given(
    medattn: Run, artifact: Path, scan: Path, tmp_path: Path
) -> None:
    words = ("infer", artifact, scan, "-o", tmp_path / "l.npz", "--json")
    assert document(medattn(*words))["session"]["threads"] == usable_cores()
    assert document(medattn(*words, "--threads", 1))["session"]["threads"] == 1


@pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed")
def test_a_compiled_model_is_kept_only_where_it_is_told_to(
    medattn: Run, artifact: Path, scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MEDATTN_EDGE_MODEL_CACHE", raising=False)
    words = ("infer", artifact, scan, "-o", tmp_path / "l.npz", "--json", "--backend", "openvino")
    assert document(medattn(*words))["session"]["loaded_from_cache"] is None
    kept = ("--cache", tmp_path / "models")
    assert document(medattn(*words, *kept))["session"]["loaded_from_cache"] is False
    assert document(medattn(*words, *kept))["session"]["loaded_from_cache"] is True
    assert "MEDATTN_EDGE_MODEL_CACHE" not in os.environ
    (tmp_path / "models").chmod(0o777)
    done = medattn(*words, *kept)
    assert done.returncode == 3
    assert "chmod 700" in done.stdout


def test_a_header_of_two_geometries_is_refused_until_one_is_chosen(
    medattn: Run, artifact: Path, tmp_path: Path
) -> None:
    image = nibabel.Nifti1Image(np.arange(9600, dtype=np.int16).reshape(48, 40, 5), None)
    image.set_sform(np.eye(4), 1)
    image.set_qform(np.diag((1.8, 1.8, 5.0, 1.0)), 1)
    nibabel.save(image, tmp_path / "scan.nii.gz")
    words = ("infer", artifact, tmp_path / "scan.nii.gz", "-o", tmp_path / "labels.nii.gz", "--json")
    refused = medattn(*words)
    assert refused.returncode == 4
    assert "--geometry sform or --geometry qform" in refused.stdout
    for geometry, millimetres in (("sform", (1, 1, 1)), ("qform", (1.8, 1.8, 5))):
        done = medattn(*words, "--geometry", geometry)
        assert done.returncode == 0, done.stdout + done.stderr
        told = json.loads(done.stdout)
        assert told["geometry"]["geometry"] == geometry
        assert any("contradicts" in note for note in told["notes"])
        assert nibabel.load(tmp_path / "labels.nii.gz").header.get_zooms() == pytest.approx(millimetres)


def test_one_of_several_volumes_is_segmented_by_its_number(medattn: Run, artifact: Path, tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.arange(19200, dtype=np.int16).reshape(48, 40, 5, 2), np.eye(4))
    nibabel.save(image, tmp_path / "scan.nii.gz")
    words = ("infer", artifact, tmp_path / "scan.nii.gz", "-o", tmp_path / "labels.nii.gz", "--json")
    assert "--volume N" in medattn(*words).stdout
    assert medattn(*words, "--volume", 2).returncode == 0
    assert medattn(*words, "--volume", 3).returncode == 2
    assert nibabel.load(tmp_path / "labels.nii.gz").shape == (48, 40, 5)
