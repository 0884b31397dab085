"""A cohort through one session: what is written, what is skipped, what fails and leaves the rest alone."""

from __future__ import annotations

import csv
import errno
import json
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medattn_edge.artifact import Artifact, manifest_path, sha256
from medattn_edge.backends import open_session
from medattn_edge.cohort import Case, CaseList, CohortSettings, find_cases, segment_cohort
from medattn_edge.cohort.fingerprint import ScanContent
from medattn_edge.errors import OutputError, UsageError
from medattn_edge.inference import SegmentSettings, segment, workflow
from medattn_edge.io import Scan, read_labels, read_volume
from medattn_edge.volume import Volume
from tests.cohort.conftest import scan
from tests.support.networks import with_other_weights

RESUME = CohortSettings(resume=True)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def done(outcome: Any) -> list[str]:
    return [one["case"] for one in outcome.done]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


TABLES = ["failures.csv", "left_out.csv", "volumes.csv"]


def test_labels_measures_and_records_are_those_of_each_scan(small_artifact: Path, scans: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    seen: list[tuple[str, float, int]] = []
    outcome = segment_cohort(small_artifact, scans, out, progress=lambda *about: seen.append(about))
    assert done(outcome) == ["a", "b"]
    assert outcome.passed
    assert names(out) == sorted([*TABLES, "a.json", "a_labels.nii.gz", "b.json", "b_labels.nii.gz"])
    assert seen[0] == ("a", 0, 2)
    assert seen[-1] == ("b", 2, 2)
    assert [part for _, part, _ in seen] == sorted(part for _, part, _ in seen)
    from scipy import ndimage

    rows = table(out / "volumes.csv")
    assert [(row["case"], row["label"]) for row in rows] == [("a", "organ"), ("b", "organ")]
    with open_session(small_artifact) as session:
        for row, path in zip(rows, (scans / "a.nii.gz", scans / "deep" / "b.nii"), strict=True):
            volume = read_volume(path)
            labels = segment(session, volume).labels.voxels
            written = read_labels(out / f"{row['case']}_labels.nii.gz")
            np.testing.assert_array_equal(written.voxels, labels)
            inside = volume.voxels[labels == 1].astype(np.float64)
            assert int(row["voxels"]) == inside.size > 0
            assert float(row["ml"]) == pytest.approx(inside.size * 4 * 1.5 * 1.25 / 1000)
            assert float(row["mean"]) == pytest.approx(inside.mean(), rel=1e-6)
            assert float(row["standard_deviation"]) == pytest.approx(inside.std(), rel=1e-6)
            assert int(row["components"]) == ndimage.label(labels == 1, np.ones((3, 3, 3)))[1]
    record = json.loads((out / "a.json").read_text())
    assert set(record["seconds"]) == {"read", "prepare", "network", "restore", "measure", "write"}
    assert all(value >= 0 for value in record["seconds"].values())
    assert record["seconds"]["network"] > 0
    assert record["files"] == {"a_labels.nii.gz": sha256(out / "a_labels.nii.gz")}
    assert record["fingerprint"]["artifact_sha256"] == sha256(small_artifact)
    document = json.loads(json.dumps(outcome.to_json(), allow_nan=False))
    assert [one["case"] for one in document["done"]] == ["a", "b"]


@contextmanager
def watched(patch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """What is opened and read, by which thread, and how many scans are in memory when another one was read."""
    seen: dict[str, Any] = {"opened": 0, "threads": [], "alive": []}
    volumes: list[weakref.ref[Any]] = []
    real_open, real_read = workflow.open_session, Scan.read

    def opening(*arguments: Any, **more: Any) -> Any:
        seen["opened"] += 1
        return real_open(*arguments, **more)

    def read(self: Scan) -> Volume:
        volume = real_read(self)
        volumes.append(weakref.ref(volume))
        seen["threads"].append(threading.current_thread() is threading.main_thread())
        seen["alive"].append(sum(one() is not None for one in volumes))
        return volume

    patch.setattr(workflow, "open_session", opening)
    patch.setattr(Scan, "read", read)
    yield seen


def test_one_session_serves_all_and_the_next_scan_is_read_beside_it(
    small_artifact: Path, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        scan(scans / f"more_{number}.nii", number)
    with watched(monkeypatch) as seen:
        outcome = segment_cohort(small_artifact, scans, tmp_path / "out")
    assert len(outcome.done) == 6
    assert seen["opened"] == 1
    assert seen["threads"] == [False] * 6
    assert max(seen["alive"]) == 2


def test_what_is_done_is_skipped_by_content(small_artifact: Path, scans: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    segment_cohort(small_artifact, scans, out)
    with pytest.raises(UsageError, match="has results already") as error:
        segment_cohort(small_artifact, scans, out)
    assert "--resume" in error.value.hint
    first = {name: (out / name).stat().st_ino for name in names(out) if name not in TABLES}
    scan(scans / "c.nii", 3)
    (scans / "a.nii.gz").touch()  # another time and the same bytes
    again = segment_cohort(small_artifact, scans, out, settings=RESUME)
    assert (done(again), again.skipped) == (["c"], ("a", "b"))
    assert {name: (out / name).stat().st_ino for name in first} == first
    assert [row["case"] for row in table(out / "volumes.csv")] == ["a", "c", "b"]
    scan(scans / "a.nii.gz", 9)
    (out / "c_labels.nii.gz").unlink()
    third = segment_cohort(small_artifact, scans, out, settings=RESUME)
    assert (done(third), third.skipped) == (["a", "c"], ("b",))


def test_another_artifact_spec_or_setting_is_another_result(small_artifact: Path, scans: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    settings = replace(RESUME, overlay="{case}.png")
    assert len(segment_cohort(small_artifact, scans, out, settings=settings).done) == 2
    other = with_other_weights(small_artifact, tmp_path / "other.onnx")
    assert len(segment_cohort(other, scans, out, settings=settings).done) == 2
    assert len(segment_cohort(other, scans, out, settings=settings).skipped) == 2
    manifest = Artifact.read(other).manifest
    replace(manifest, spec=replace(manifest.spec, labels=("background", "liver"), mirror="H")).write(
        manifest_path(other)
    )
    assert len(segment_cohort(other, scans, out, settings=settings).done) == 2
    assert {row["label"] for row in table(out / "volumes.csv")} == {"liver"}
    assert len(segment_cohort(other, scans, out, settings=settings).skipped) == 2
    less = replace(settings, segment=SegmentSettings(0.25))
    assert len(segment_cohort(other, scans, out, settings=less).done) == 2
    assert (out / "a.png").is_file()
    segment_cohort(other, scans, out, settings=replace(less, overlay=""))
    assert not (out / "a.png").exists(), "it was of another run, and would be taken for this one's"


def test_what_somebody_changed_or_put_there_is_never_replaced(
    small_artifact: Path, scans: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    segment_cohort(small_artifact, scans, out)
    with (out / "a_labels.nii.gz").open("ab") as file:
        file.write(b"corrected by hand")
    corrected = (out / "a_labels.nii.gz").read_bytes()
    scan(scans / "c.nii", 3)
    (out / "c.json").write_text('{"RepetitionTime": 2}')
    outcome = segment_cohort(small_artifact, scans, out, settings=RESUME)
    assert [(one.case, one.code) for one in outcome.failures] == [("a", "changed_output"), ("c", "changed_output")]
    assert outcome.skipped == ("b",)
    assert (out / "a_labels.nii.gz").read_bytes() == corrected
    assert (out / "c.json").read_text() == '{"RepetitionTime": 2}'
    assert [row["case"] for row in table(out / "volumes.csv")] == ["b"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "volumes.csv").write_text("patient,volume\n")
    with pytest.raises(UsageError, match="no table of a cohort"):
        segment_cohort(small_artifact, scans, tmp_path / "mine", settings=RESUME)
    result = Case("x", Scan(out / "b_labels.nii.gz"), "b_labels.nii.gz")
    with pytest.raises(UsageError, match="is a scan of this cohort"):
        segment_cohort(small_artifact, CaseList((result, *find_cases([scans]).cases)), out, settings=RESUME)


class Unforeseen(Scan):
    """A file whose reader has a bug."""

    def read(self) -> Volume:
        raise RuntimeError(f"nobody thought of {self.path}")


class Enormous(Scan):
    """A file that memory is too small for."""

    def read(self) -> Volume:
        raise MemoryError


class Growing(Scan):
    """A file that somebody is writing while it is read."""

    def read(self) -> Volume:
        volume = super().read()
        with self.path.open("ab") as file:
            file.write(b"more")
        return volume


def test_a_case_that_fails_says_why_and_the_others_are_done(small_artifact: Path, scans: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (scans / "cut.nii.gz").write_bytes((scans / "a.nii.gz").read_bytes()[:500])
    listed = find_cases([scans])
    more = [
        Case("bug", Unforeseen(scans / "a.nii.gz"), "shown", hidden=(str(scans),)),
        Case("large", Enormous(scans / "a.nii.gz"), "large"),
        Case("growing", Growing(scan(tmp_path / "growing.nii", 4)), "growing"),
        Case("last", Scan(scans / "a.nii.gz"), "last"),
    ]
    told: list[str] = []
    outcome = segment_cohort(
        small_artifact, replace(listed, cases=(*listed.cases, *more)), out, failed=lambda one: told.append(one.case)
    )
    assert done(outcome) == ["a", "b", "last"]
    rows = table(out / "failures.csv")
    codes = {row["case"]: row["code"] for row in rows}
    assert codes == {"cut": "scan", "bug": "unexpected", "large": "backend", "growing": "changed_scan"}
    assert told == list(codes) == [one.case for one in outcome.failures]
    assert not outcome.passed
    assert all(row["message"] and row["hint"] for row in rows)
    bug = outcome.failures[1]
    assert "RuntimeError: nobody thought of shown/a.nii.gz" in bug.message
    assert "Traceback" in bug.traceback
    assert str(scans) not in bug.traceback.partition("RuntimeError")[2]
    assert [row["case"] for row in table(out / "volumes.csv")] == ["a", "b", "last"]


def test_a_full_disk_ends_the_run_and_a_later_one_goes_on(small_artifact: Path, scans: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    segment_cohort(small_artifact, scans / "a.nii.gz", out)
    real = os.fsync
    left = [2]

    def full(descriptor: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match="No space left"):
            segment_cohort(small_artifact, scans, out, settings=RESUME)
    assert names(out) == sorted([*TABLES, "a.json", "a_labels.nii.gz"])
    assert [row["case"] for row in table(out / "volumes.csv")] == ["a"]
    outcome = segment_cohort(small_artifact, scans, out, settings=RESUME)
    assert (done(outcome), outcome.skipped) == (["b"], ("a",))


def test_ended_in_the_middle_it_leaves_whole_cases_and_tables(
    small_artifact: Path, scans: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"

    def interrupt(case: str, part: float, total: int) -> None:
        if part > 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segment_cohort(small_artifact, scans, out, progress=interrupt)
    assert names(out) == sorted([*TABLES, "a.json", "a_labels.nii.gz"])
    assert [row["case"] for row in table(out / "volumes.csv")] == ["a"]
    outcome = segment_cohort(small_artifact, scans, out, settings=RESUME)
    assert (done(outcome), outcome.skipped) == (["b"], ("a",))


def test_two_runs_never_write_into_one_folder(small_artifact: Path, scans: Path, tmp_path: Path) -> None:
    raised: list[str] = []

    def again(case: str, part: float, total: int) -> None:
        if not raised:
            with pytest.raises(UsageError, match="another run writes into") as error:
                segment_cohort(small_artifact, scans, tmp_path / "out", settings=RESUME)
            raised.append(str(error.value))

    assert segment_cohort(small_artifact, scans, tmp_path / "out", progress=again).passed
    assert raised


def test_what_is_refused_at_the_start_leaves_no_folder(small_artifact: Path, scans: Path, tmp_path: Path) -> None:
    for settings, error in (
        (CohortSettings(regions="maps"), UsageError),
        (CohortSettings("{case}_seg.dcm", seg_kind=None, regions="label-map"), UsageError),
        (CohortSettings(segment=SegmentSettings(check_skipped=True)), UsageError),
    ):
        with pytest.raises(error):
            segment_cohort(small_artifact, scans, tmp_path / "out", settings=settings)
    with pytest.raises(OutputError, match="does not exist"):
        segment_cohort(small_artifact, scans, tmp_path / "nowhere" / "out")
    assert not (tmp_path / "out").exists()


def test_voxels_beside_their_header_are_part_of_the_content(tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK", reason="the extra itk is not installed")
    path = tmp_path / "scan.mhd"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((2, 8, 8), np.float32)), str(path))
    first = ScanContent.of(Scan(path))
    data = bytearray((tmp_path / "scan.raw").read_bytes())
    data[0] ^= 1
    (tmp_path / "scan.raw").write_bytes(bytes(data))
    assert ScanContent.of(Scan(path)).sha256 != first.sha256


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A CT and an MR series, in a folder whose name is the patient's."""
    pytest.importorskip("highdicom", reason="the extra dicom is not installed")
    from tests.support.dicom_phantoms import real_ct, write_series

    ct = real_ct(4, 40, 36)
    folder = tmp_path / "tree" / "DOE_JOHN"
    write_series(folder / "ct", ct.voxels, ct.affine, PatientName="DOE^JOHN", PatientID="4711")
    uid = "1.2.826.0.1.3680043.8.498.9"
    write_series(folder / "mr", ct.voxels, ct.affine, modality="MR", PatientName="DOE^JOHN", SeriesInstanceUID=uid)
    return tmp_path / "tree"


def of_modality(artifact: Path, path: Path, modality: str) -> Path:
    """The artifact under a manifest that says its modality."""
    path.write_bytes(artifact.read_bytes())
    manifest = Artifact.read(artifact).manifest
    replace(manifest, spec=replace(manifest.spec, modality=modality)).write(manifest_path(path))
    return path


def test_dicom_segmentations_name_no_patient_and_another_modality_is_left_out(
    small_artifact: Path, tree: Path, tmp_path: Path
) -> None:
    import pydicom

    artifact = of_modality(small_artifact, tmp_path / "ct.onnx", "CT")
    out = tmp_path / "out"
    outcome = segment_cohort(artifact, tree, out, settings=CohortSettings("{case}_seg.dcm", key_slices=1))
    assert outcome.passed
    [case] = done(outcome)
    assert [(one.code, one.scan[:7]) for one in outcome.left_out] == [("other_modality", "series ")]
    assert names(out) == sorted([*TABLES, f"{case}.json", f"{case}_seg.dcm", f"{case}_key_1.dcm"])
    assert pydicom.dcmread(out / f"{case}_seg.dcm").PatientName == "DOE^JOHN"  # the archive files it by that
    texts = [path.read_text() for path in out.iterdir() if path.suffix != ".dcm"] + [
        str(outcome.to_json()),
        *names(out),
    ]
    uid = pydicom.dcmread(next((tree / "DOE_JOHN" / "ct").iterdir())).SeriesInstanceUID
    assert not [text for text in texts if "DOE" in text or "4711" in text or str(uid) in text]
    single = tmp_path / "single.dcm"
    workflow.segment_to(artifact, tree / "DOE_JOHN" / "ct", single)
    assert single.read_bytes() == (out / f"{case}_seg.dcm").read_bytes(), "one object, whichever way it is made"
    (tmp_path / "l.csv").write_text("scan\ntree/DOE_JOHN/mr\ntree/DOE_JOHN\n")
    listed = segment_cohort(artifact, tmp_path / "l.csv", tmp_path / "listed")
    assert [one.code for one in listed.failures] == ["other_modality", "scan"], "who names a scan is told"
    text = (tmp_path / "listed" / "failures.csv").read_text()
    assert "DOE" not in text


def test_contours_and_reports_of_every_series_are_those_of_each_by_itself(
    small_artifact: Path, tree: Path, tmp_path: Path
) -> None:
    artifact = of_modality(small_artifact, tmp_path / "ct.onnx", "CT")
    out, alone = tmp_path / "out", tmp_path / "alone"
    alone.mkdir()
    patterns = CohortSettings("{case}_seg.dcm", rtstruct="{case}_rtstruct.dcm", sr="{case}_sr.dcm")
    outcome = segment_cohort(artifact, tree, out, settings=patterns)
    [case] = done(outcome)
    kinds = ("seg", "rtstruct", "sr")
    assert names(out) == sorted([*TABLES, f"{case}.json", *(f"{case}_{kind}.dcm" for kind in kinds)])
    outputs = workflow.Outputs(alone / "seg.dcm", rtstruct=alone / "rtstruct.dcm", sr=alone / "sr.dcm")
    workflow.segment_to(artifact, tree / "DOE_JOHN" / "ct", outputs)
    for kind in kinds:
        assert (out / f"{case}_{kind}.dcm").read_bytes() == (alone / f"{kind}.dcm").read_bytes(), kind


def test_contours_need_no_segmentation_beside_them(small_artifact: Path, tree: Path, tmp_path: Path) -> None:
    artifact = of_modality(small_artifact, tmp_path / "ct.onnx", "CT")
    patterns = CohortSettings("{case}_labels.nii.gz", rtstruct="{case}_rtstruct.dcm")
    outcome = segment_cohort(artifact, tree, tmp_path / "out", settings=patterns)
    assert outcome.failures == ()
    [case] = done(outcome)
    assert (tmp_path / "out" / f"{case}_rtstruct.dcm").is_file()


@pytest.mark.parametrize("change", [{"rtstruct": "contours.dcm"}, {"rtstruct": "{case}.nii.gz"}, {"sr": "{case}.json"}])
def test_a_pattern_of_contours_and_reports_is_a_dicom_file_of_each_case(
    small_artifact: Path, scans: Path, tmp_path: Path, change: dict[str, str]
) -> None:
    with pytest.raises(UsageError, match=next(iter(change))):
        segment_cohort(small_artifact, scans, tmp_path / "out", settings=CohortSettings("{case}_seg.dcm", **change))
    assert not (tmp_path / "out").exists()
