"""Measurement reports: other readers find the volumes, what they are of, and the segmentation that they refer to."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medattn_edge.errors import GeometryError, OutputError, UsageError
from medattn_edge.spec import Code
from medattn_edge.volume import Volume

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
sr = pytest.importorskip("highdicom.sr", reason="the extra dicom is not installed")

from medattn_edge.io.dicom.seg import SegFile, write_seg  # noqa: E402
from medattn_edge.io.dicom.sr import SrFile, write_sr  # noqa: E402
from medattn_edge.io.dicom.volume import Series  # noqa: E402
from tests.io.dicom.test_seg import ALGORITHM, NAMES, PLANES, drawn, listed_again, send, tool  # noqa: E402
from tests.support.dicom_phantoms import in_plane  # noqa: E402


def remarks_of_dciodvfy(path: Path) -> list[str]:
    """Every error and warning."""
    done = subprocess.run([tool("dciodvfy"), "-new", path], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[0] == "ComprehensiveSR"
    return [line for line in done.stderr.splitlines()[1:] if line.strip()]


def write(folder: Path, labels: Volume, series: Series, names: Any = NAMES, **options: Any) -> tuple[SegFile, SrFile]:
    """seg.dcm and sr.dcm of a series."""
    file = write_seg(folder / "seg.dcm", labels, names, series, ALGORITHM, **options)
    return file, write_sr(folder / "sr.dcm", labels, names, series, ALGORITHM, file, **options)


def groups_of(path: Path) -> list[Any]:
    """The measurement groups as highdicom reads them."""
    report = sr.srread(path)
    return list(report.content.get_volumetric_roi_measurement_groups())


@pytest.mark.parametrize("enhanced", [False, True], ids=["single", "enhanced"])
@pytest.mark.parametrize("plane", PLANES)
def test_highdicom_reads_every_volume_with_its_segment_and_dciodvfy_is_content(scan, plane, enhanced, tmp_path) -> None:
    acquired = in_plane(scan, plane)
    series = send(tmp_path / "series", acquired, enhanced=enhanced)
    labels = drawn(acquired)
    segmentation, file = write(tmp_path, labels.oriented("RAS"), series)
    found = groups_of(tmp_path / "sr.dcm")
    assert [group.tracking_identifier for group in found] == list(NAMES[1:])
    for number, group in enumerate(found, start=1):
        (volume,) = group.get_measurements(name=pydicom.sr.codedict.codes.SCT.Volume)
        wanted = float((labels.voxels == number).sum() * abs(np.linalg.det(labels.affine[:3, :3])) / 1000)
        assert volume.value == pytest.approx(wanted, abs=1e-6)
        assert file.volumes_ml[number - 1] == pytest.approx(wanted)
        assert (volume.unit.value, volume.unit.scheme_designator) == ("cm3", "UCUM")
        segment = group.referenced_segment
        assert segment.referenced_sop_instance_uid == segmentation.sop_instance_uid
        assert segment.referenced_sop_class_uid == pydicom.dcmread(tmp_path / "seg.dcm").SOPClassUID
        assert segment.referenced_segment_numbers == [number]
        assert segment.source_series_for_segmentation.value == series.series_instance_uid
    assert remarks_of_dciodvfy(tmp_path / "sr.dcm") == []


def test_dciodvfy_would_find_an_error(scan, sent, tmp_path) -> None:
    write(tmp_path, drawn(scan), sent)
    broken = pydicom.dcmread(tmp_path / "sr.dcm")
    del broken.ContentSequence[0].ConceptNameCodeSequence
    broken.save_as(tmp_path / "broken.dcm")
    assert any("Error" in line for line in remarks_of_dciodvfy(tmp_path / "broken.dcm"))


@pytest.mark.skipif(shutil.which("dsrdump") is None, reason="dcmtk is not installed")
def test_dcmtk_reads_the_whole_report(scan, sent, tmp_path) -> None:
    write(tmp_path, drawn(scan), sent)
    said = subprocess.run(["dsrdump", tmp_path / "sr.dcm"], capture_output=True, text=True, check=True)
    assert said.stderr.count("E:") == 0
    for text in ("Imaging Measurement Report", "CT unspecified body region", '"right_lung"', "cubic centimeter"):
        assert text in said.stdout


def test_what_a_segment_is_and_where_follows_the_segmentation(scan, sent, tmp_path) -> None:
    labels = np.zeros(scan.shape, np.uint8)
    labels[1, 2:5, 3:7], labels[2, 2:4, 3:9] = 1, 2
    names = ("background", "cyst left kidney", "organ x")
    codes = {"organ x": Code("78961009", "SCT", "Spleen")}
    write(tmp_path, Volume(labels, scan.affine), sent, names, codes=codes)
    cyst, spleen = groups_of(tmp_path / "sr.dcm")
    assert cyst.finding_type.meaning == "Cyst"
    (site,) = cyst.finding_sites
    assert (site.value.meaning, site.laterality.meaning) == ("Kidney", "Left")
    assert (spleen.finding_type.meaning, spleen.finding_sites) == ("Spleen", [])


def test_it_has_the_patient_of_the_series_and_refers_to_every_instance_and_nobody_has_verified_it(
    scan, sent, tmp_path
) -> None:
    segmentation, file = write(tmp_path, drawn(scan), sent)
    report, seg = pydicom.dcmread(tmp_path / "sr.dcm"), pydicom.dcmread(tmp_path / "seg.dcm")
    for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "StudyDate", "ContentDate", "SeriesTime"):
        assert report[keyword].value == seg[keyword].value, keyword
    assert report.SOPInstanceUID == file.sop_instance_uid != segmentation.sop_instance_uid
    assert report.SeriesInstanceUID == file.series_instance_uid != segmentation.series_instance_uid
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    referred = {
        item.ReferencedSOPInstanceUID for one in study.ReferencedSeriesSequence for item in one.ReferencedSOPSequence
    }
    wanted = {pydicom.dcmread(path).SOPInstanceUID for path in sent.files}
    assert referred == {*wanted, segmentation.sop_instance_uid}
    assert (report.CompletionFlag, report.VerificationFlag, report.PreliminaryFlag) == (
        "COMPLETE",
        "UNVERIFIED",
        "PRELIMINARY",
    )


def test_regions_that_overlap_have_a_volume_each(scan, sent, tmp_path) -> None:
    maps = np.stack([scan.voxels > -500, scan.voxels > 0]).astype(np.uint8)
    _, file = write(tmp_path, Volume(maps, scan.affine), sent, ("body", "tissue"))
    assert file.volumes_ml == pytest.approx([int(one.sum()) * scan.voxel_ml for one in maps])


def test_the_same_work_gives_the_same_bytes_in_whatever_order_the_files_are_found(scan, sent, tmp_path) -> None:
    again = listed_again(sent, tmp_path / "again")
    bytes_of = []
    for series in (sent, again):
        write(tmp_path, drawn(scan), series)
        bytes_of.append((tmp_path / "sr.dcm").read_bytes())
    assert bytes_of[0] == bytes_of[1]


def test_what_does_not_fit_the_segmentation_is_refused_and_nothing_is_written(scan, sent, tmp_path) -> None:
    file = write_seg(tmp_path / "seg.dcm", drawn(scan), NAMES, sent, ALGORITHM)
    path = tmp_path / "sr.dcm"
    with pytest.raises(UsageError, match="the segments right_lung, bone of a segmentation of right_lung, bone, liver"):
        write_sr(path, drawn(scan), NAMES[:3], sent, ALGORITHM, file)
    labelmap = write_seg(tmp_path / "map.dcm", drawn(scan), NAMES, sent, ALGORITHM, kind="labelmap")
    with pytest.raises(UsageError, match=r"on a labelmap segmentation(.|\n)*--seg-kind binary"):
        write_sr(path, drawn(scan), NAMES, sent, ALGORITHM, labelmap)
    elsewhere = np.array(scan.affine)
    elsewhere[0, 3] += 50
    with pytest.raises(GeometryError):
        write_sr(path, Volume(drawn(scan).voxels, elsewhere), NAMES, sent, ALGORITHM, file)
    with pytest.raises(OutputError):
        write_sr(tmp_path / "nowhere" / "sr.dcm", drawn(scan), NAMES, sent, ALGORITHM, file)
    assert not path.exists()
