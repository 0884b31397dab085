"""The whole of a calibration as one call: scans of any kind in, each read once, an INT8 artifact out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

import medattn_edge
from medattn_edge import CalibrationSettings, Volume, calibrate, read_labels, read_volume
from medattn_edge.artifact import Artifact
from medattn_edge.data.samples import sample_labels, sample_scan
from medattn_edge.errors import InputError, UsageError
from medattn_edge.io import numpy as npz
from medattn_edge.precision.cache import Cache
from medattn_edge.registry import records

QUICK = CalibrationSettings(
    profile="tensorrt", gate=0.9, quantizer="onnxruntime", samples=8, held_out_samples=6, threads=1
)
VALUES = {"right_lung": [5], "left_lung": [6]}


class Counted(Volume):
    """A scan that counts how often it is oriented, which is what preparing it for a network begins with."""

    prepared: ClassVar[Counter[str]] = Counter()

    def oriented(self, code: str) -> Volume:
        self.prepared[str(self.shape)] += 1
        return super().oriented(code)


def halves_of(volume: Volume, folder: Path, name: str) -> tuple[Path, Path]:
    """Two files of a volume, cut between its slices, with one slice less in the second."""
    middle = volume.shape[0] // 2
    paths = folder / f"{name}-1.npz", folder / f"{name}-2.npz"
    for path, start, stop in zip(paths, (0, middle), (middle, volume.shape[0] - 1), strict=True):
        affine = volume.affine.copy()
        affine[:3, 3] = volume.point(start, 0, 0)
        np.savez(path, voxels=volume.voxels[start:stop], affine=affine)
    return paths


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """How often each .npz file is read, counted by the format's own record."""
    counter: Counter[str] = Counter()
    record = npz.FORMAT

    def read(path: Path) -> Volume:
        counter[path.name] += 1
        volume = record.read(path)
        return Counted(volume.voxels, volume.affine, volume.calibrated)

    monkeypatch.setattr(npz, "FORMAT", replace(record, read=read))
    monkeypatch.setattr(Counted, "prepared", Counter())
    records.cache_clear()
    yield counter
    records.cache_clear()


def test_every_scan_is_read_resampled_and_tiled_once(
    lungs: Artifact, reads: Counter[str], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    first, second = halves_of(read_volume(sample_scan()), tmp_path_factory.mktemp("scans"), "scan")
    artifact = calibrate(lungs, [first, second], tmp_path / "net.onnx", settings=QUICK, cache=Cache(None))
    assert reads == {"scan-1.npz": 1, "scan-2.npz": 1}
    assert sorted(Counted.prepared.values()) == [1, 1]
    assert artifact.manifest.recipe["calibrated_on"] == {"scan-1.npz": 8}
    assert artifact.manifest.recipe["judged_on"] == {"scan-2.npz": 6}


def test_a_single_scan_and_its_true_labels_are_read_once(
    lungs: Artifact, reads: Counter[str], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("scans")
    scan, _ = halves_of(read_volume(sample_scan()), folder, "scan")
    labels, _ = halves_of(read_labels(sample_labels()), folder, "labels")
    easy = replace(QUICK, min_true_dice_share=0.9, max_true_dice_share=1.1)
    artifact = calibrate(
        lungs, [scan], tmp_path / "net.onnx", settings=easy, labels=[labels], label_values=VALUES, cache=Cache(None)
    )
    assert reads == {"scan-1.npz": 1, "labels-1.npz": 1}
    (case,) = artifact.manifest.agreement
    assert case["thresholds"] == {"min_dice": 0.9, "min_true_dice_share": 0.9, "max_true_dice_share": 1.1}
    gate = artifact.manifest.gate
    assert gate is not None
    assert (gate.limits, gate.label_values) == (case["thresholds"], {"right_lung": (5,), "left_lung": (6,)})
    assert min(case["reference_dice"].values()) > 0.9


def test_a_dicom_folder_and_a_volume_are_scans(lungs: Artifact, tmp_path: Path) -> None:
    pytest.importorskip("pydicom", reason="the extra dicom is not installed")
    from tests.support.dicom_phantoms import write_series

    volume = read_volume(sample_scan()).to_lps()
    folder = tmp_path / "DOE JANE"
    write_series(folder, volume.voxels[volume.shape[0] // 2 :].astype(np.int16), volume.affine)
    artifact = calibrate(lungs, [volume], tmp_path / "net.onnx", settings=QUICK, held_out=[folder], cache=Cache(None))
    assert artifact.manifest.recipe["calibrated_on"] == {"volume 1": 8}
    (name,) = artifact.manifest.recipe["judged_on"]
    assert name.startswith("series ")
    assert "DOE" not in str(artifact.manifest.to_json())


def test_a_path_is_as_good_as_an_artifact(lungs: Artifact, tmp_path: Path) -> None:
    settings = replace(QUICK, allow_random=True, gate=0.0)
    artifact = calibrate(str(lungs.path), [], str(tmp_path / "net.onnx"), settings=settings, cache=Cache(None))
    assert artifact == Artifact.read(tmp_path / "net.onnx")
    assert artifact.manifest.recipe["calibrated_on"] == {"random": 8}


def test_what_is_wrong_is_said_before_any_scan_is_read(
    lungs: Artifact, reads: Counter[str], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    first, second = halves_of(read_volume(sample_scan()), tmp_path_factory.mktemp("scans"), "scan")
    output = tmp_path / "net.onnx"
    with pytest.raises(UsageError, match="no scan to calibrate on"):
        calibrate(lungs, [], output, settings=QUICK)
    with pytest.raises(UsageError, match="1 label files for 2 scans"):
        calibrate(lungs, [first, second], output, settings=QUICK, labels=[first])
    with pytest.raises(UsageError, match="--label-value without --labels"):
        calibrate(lungs, [first], output, settings=QUICK, label_values=VALUES)
    with pytest.raises(UsageError, match="--max-true-dice-share without --labels"):
        calibrate(lungs, [first], output, settings=replace(QUICK, max_true_dice_share=1.1))
    with pytest.raises(UsageError, match="names liver"):
        calibrate(lungs, [first], output, settings=QUICK, labels=[first], label_values={"liver": [1]})
    with pytest.raises(InputError, match=r"missing\.npz does not exist"):
        calibrate(lungs, [first], output, settings=QUICK, held_out=[tmp_path / "missing.npz"])
    with pytest.raises(InputError, match=r"missing\.npz does not exist"):
        calibrate(lungs, [first], output, settings=QUICK, labels=[tmp_path / "missing.npz"])
    assert not reads
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"method": "mean"}, "minmax"),
        ({"gate": 1.5}, "from 0 to 1"),
        ({"gate": float("nan")}, "from 0 to 1"),
        ({"min_true_dice_share": 1.1}, "from 1.1 to 1.01"),
        ({"max_true_dice_share": 0.5}, "from 0.999 to 0.5"),
        ({"min_true_dice_share": -1.0}, "from -1"),
        ({"max_true_dice_share": float("nan")}, "to nan"),
        ({"samples": 0}, "--samples 0"),
        ({"held_out_samples": 0}, "--held-out-samples 0"),
        ({"max_trials": 0}, "--max-trials 0"),
        ({"profile": "gpu"}, "cpu, tensorrt"),
        ({"isa": "sparc"}, "x86-vnni"),
    ],
)
def test_settings_that_nothing_can_follow_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        CalibrationSettings(**{"profile": "cpu", **wrong})  # type: ignore[arg-type]


def test_calibrate_is_part_of_the_library() -> None:
    assert medattn_edge.calibrate is calibrate
    assert {"calibrate", "CalibrationSettings"} <= set(medattn_edge.__all__)
