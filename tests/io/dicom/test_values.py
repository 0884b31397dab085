"""Single values of a header: numbers, dates, times, names, private elements, and the UIDs that follow from them."""

from __future__ import annotations

import io
import struct
from dataclasses import replace
from typing import Any

import pytest

pydicom = pytest.importorskip("pydicom", reason="the extra dicom is not installed")

from pydicom.dataset import Dataset  # noqa: E402

from medattn_edge.errors import UsageError  # noqa: E402
from medattn_edge.io.dicom import uids  # noqa: E402
from medattn_edge.io.dicom.attributes import creator_tag, frame_attributes, single_frame  # noqa: E402
from medattn_edge.io.dicom.clean import number  # noqa: E402
from medattn_edge.io.dicom.header import read_header  # noqa: E402
from medattn_edge.io.dicom.identity import is_date, is_time, valid_identity  # noqa: E402
from medattn_edge.io.dicom.mosaic import mosaic_slices  # noqa: E402
from medattn_edge.io.dicom.series import series_hash  # noqa: E402
from medattn_edge.io.dicom.source import lenient  # noqa: E402
from medattn_edge.io.dicom.uids import Algorithm, Identity  # noqa: E402
from tests.support.dicom_phantoms import make_series, real_ct, save  # noqa: E402

SCAN = real_ct(2, 6, 5)
ALGORITHM = Algorithm("lungs", "1.0", "5" * 64, "overlap=0.5")


# ---------------------------------------------------------------------------------------------------- private elements


def private(**elements: Any) -> Dataset:
    """Elements `e0019100A` of a vendor; `creator` names it in the group of each."""
    dataset = Dataset()
    creator = elements.pop("creator", "SIEMENS MR HEADER")
    with lenient():
        dataset.ImageType = elements.pop("ImageType", ["ORIGINAL", "PRIMARY"])
        for name, (kind, value) in elements.items():
            tag = int(name[1:], 16)
            dataset.add_new(creator_tag(tag), "LO", creator)
            dataset.add_new(tag, kind, value)
    return dataset


def csa(text: bytes, lengths: tuple[int, int] = (2, 2), behind: bytes = bytes(16)) -> bytes:
    """A CSA header: name of 64 bytes, five words, four words of the first value, its text, and what is behind."""
    name = b"NumberOfImagesInMosaic".ljust(64, b"\0")
    return b"SV10" + bytes(12) + name + bytes(20) + struct.pack("<4L", *lengths, 77, 2) + text + behind


def test_the_creator_of_a_private_element_has_its_block() -> None:
    assert creator_tag(0x0019100C) == 0x00190010
    assert creator_tag(0x00431139) == 0x00430011
    assert creator_tag(0x0029FF10) == 0x002900FF


@pytest.mark.parametrize(
    ("dataset", "slices"),
    [
        (private(e0019100A=("US", 36)), 36),
        (private(e0019100A=("US", 2)), 2),
        (private(e0019100A=("US", 1)), 0),
        (private(e0019100A=("UN", b"\x24\x00")), 36),
        (private(e0019100A=("UN", b"\x24\x00\x00")), 0),
        (private(e0019100A=("IS", "36")), 36),
        (private(e0019100A=("LO", "many")), 0),
        (private(e0019100A=("US", 36), creator="siemens mr header"), 36),
        (private(e0019100A=("US", 36), creator="SIEMENS CT VA0"), 0),
        (private(e0019100A=("US", 36), ImageType=["A", "MOSAIC"]), 36),
        (private(ImageType=["A", "MOSAIC"]), 1),
        (private(ImageType=["A", "mosaic"]), 1),
        (private(ImageType="MOSAIC"), 1),
        (private(ImageType=["A", "MOSAICS"]), 0),
        (private(e00291010=("OB", csa(b"36\0"))), 36),
        (private(e00291010=("OB", csa(b" 4 \0", (4, 4)))), 4),
        (private(e00291010=("OB", csa(b"36\0", (3, 0)))), 36),
        (private(e00291010=("OB", csa(b"36\0", (0, 3)))), 36),
        (private(e00291010=("OB", csa(b"36\0", (0, 0)))), 0),
        (private(e00291010=("OB", csa(b"36\0", (64, 64)))), 36),
        (private(e00291010=("OB", csa(b"36\0", (65, 65)))), 0),
        (private(e00291010=("OB", csa(b"36\0", (1, 99)))), 36),
        (private(e00291010=("OB", csa(b"1234\0"))), 1234),
        (private(e00291010=("OB", csa(b"12345\0"))), 0),
        (private(e00291010=("OB", csa(b"3", behind=b""))), 3),
        (private(e00291010=("OB", csa(b"", behind=b""))), 0),
        (private(e00291010=("OB", csa(b"36x\0"))), 0),
        (private(e00291010=("OB", csa(b"9\0").replace(b"NumberOf", b"NumberIn"))), 0),
        (private(e00291010=("OB", csa(b"9\0")), e0019100A=("US", 36)), 36),
        (private(e00291010=("OB", csa(b"40\0")), e0019100A=("US", 36)), 40),
    ],
)
def test_a_mosaic_says_how_many_slices_it_has(dataset: Dataset, slices: int) -> None:
    assert mosaic_slices(dataset) == slices


@pytest.mark.parametrize(
    ("count", "detail"),
    [(36, "36 slices in one picture"), (2, "2 slices in one picture"), (None, "a mosaic of slices")],
)
def test_a_mosaic_is_refused_with_what_is_known_of_it(tmp_path: Any, count: int | None, detail: str) -> None:
    dataset = make_series(SCAN.voxels, SCAN.affine, modality="MR")[0]
    if count is None:
        dataset.ImageType = ["DERIVED", "PRIMARY", "MOSAIC"]
    else:
        dataset.add_new(0x00190010, "LO", "SIEMENS MR HEADER")
        dataset.add_new(0x0019100A, "US", count)
    header = read_header(save(tmp_path / "a.dcm", dataset))
    assert header is not None
    assert header.refusal is not None
    assert (header.refusal.reason, header.refusal.detail) == ("mosaic", detail)


@pytest.mark.parametrize(
    ("dataset", "keyword", "value"),
    [
        (private(e0019100C=("IS", "700")), "DiffusionBValue", "700"),
        (private(e0019100C=("IS", "700"), creator="GEMS_PARM_01"), "DiffusionBValue", ""),
        (private(e00431039=("IS", [10**9 + 700, 8, 0, 0]), creator="GEMS_PARM_01"), "DiffusionBValue", "700"),
        (private(e00431039=("IS", [99_999, 8]), creator="GEMS_PARM_01"), "DiffusionBValue", "99999"),
        (private(e00431039=("IS", [100_000, 8]), creator="GEMS_PARM_01"), "DiffusionBValue", "0"),
        (private(e0043102F=("SS", 2), creator="GEMS_PARM_01"), "ComplexImageComponent", "2"),
        (private(e0043102F=("SS", 2)), "ComplexImageComponent", ""),
    ],
)
def test_what_vendors_say_of_a_volume(dataset: Dataset, keyword: str, value: str) -> None:
    assert dict(single_frame(dataset)[0])[keyword] == value


def test_values_that_tell_volumes_apart_are_texts() -> None:
    dataset = Dataset()
    with lenient():
        dataset.ImageType, dataset.EchoTime, dataset.EchoNumbers = ["original", "Primary"], 2.299999, 3
    dataset.DiffusionGradientOrientation, dataset.ConvolutionKernel = [0.1234567, 0, -1], ["Br40", "d "]
    kinds, orders = map(dict, single_frame(dataset))
    assert kinds["ImageType"] == "ORIGINAL\\PRIMARY"
    assert (kinds["EchoTime"], kinds["EchoNumbers"]) == ("2.3", "3")
    assert kinds["DiffusionGradientOrientation"] == "0.12346\\0\\-1"
    assert kinds["ConvolutionKernel"] == "Br40\\d"
    assert (kinds["KVP"], orders["TriggerTime"]) == ("", "")


def test_a_frames_own_group_comes_before_the_shared_one() -> None:
    shared, own, echo, gradient = Dataset(), Dataset(), Dataset(), Dataset()
    echo.EffectiveEchoTime = 5.0
    shared.MREchoSequence = [echo]
    gradient.DiffusionGradientOrientation = [1, 0, 0]
    diffusion = Dataset()
    diffusion.DiffusionBValue, diffusion.DiffusionGradientDirectionSequence = 800.0, [gradient]
    own.MRDiffusionSequence = [diffusion]
    kinds, orders = frame_attributes(shared, own, 7)
    assert dict(kinds)["EffectiveEchoTime"] == "5"
    assert dict(kinds)["DiffusionBValue"] == "800"
    assert dict(kinds)["DiffusionGradientDirectionSequence"] == "1\\0\\0"
    assert orders[-1] == ("the number of the frame", "7")
    other = Dataset()
    other.EffectiveEchoTime = 9.0
    own.MREchoSequence = [other]
    assert dict(frame_attributes(shared, own, 7)[0])["EffectiveEchoTime"] == "9"
    assert dict(frame_attributes(None, own, 7)[0])["StackID"] == ""


# -------------------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("value", "found"),
    [(None, 0), ("", 0), ("12.5", 12.5), ([3, 4], 3), ([], 0), ("many", 0), ("nan", 0), ("inf", 0), (-7, -7)],
)
def test_the_first_finite_number_of_an_element(value: Any, found: float) -> None:
    assert number({"WindowWidth": value}, "WindowWidth") == found
    assert number({}, "WindowWidth") == 0


@pytest.mark.parametrize(
    ("text", "good"),
    [("20200229", True), ("20190229", False), ("20201301", False), ("20200001", False), ("20200100", False),
     ("20200132", False), ("19000101", True), ("09991231", False), ("29991231", True), ("30000101", False),
     ("2020010", False), ("202001011", False), ("2020.1.1", False), ("", False)],
)  # fmt: skip
def test_a_date_is_a_day_of_the_calendar(text: str, good: bool) -> None:
    assert is_date(text) is good


@pytest.mark.parametrize(
    ("text", "good"),
    [("00", True), ("23", True), ("24", False), ("2359", True), ("2360", False), ("235959", True), ("235960", False),
     ("235959.1", True), ("235959.123456", True), ("235959.1234567", False), ("235959.", False), ("1", False),
     ("123", False), ("12345", False), ("", False)],
)  # fmt: skip
def test_a_time_is_one_of_the_day(text: str, good: bool) -> None:
    assert is_time(text) is good


def left_out(**values: Any) -> tuple[str, ...]:
    with lenient():
        header = Dataset()
        header.SpecificCharacterSet = "ISO_IR 192"
        for keyword, value in values.items():
            setattr(header, keyword, value)
        written = io.BytesIO()
        pydicom.dcmwrite(written, header, implicit_vr=False, little_endian=True)
        written.seek(0)
        return valid_identity(pydicom.dcmread(written, force=True))[1]


@pytest.mark.parametrize(
    ("keyword", "value", "good"),
    [
        ("PatientName", "a" * 64, True),
        ("PatientName", "a" * 65, False),
        ("PatientName", "a^b^c^d^e", True),
        ("PatientName", "a^b^c^d^e^f", False),
        ("PatientName", "a=" + "b" * 64, True),
        ("PatientName", "a=" + "b" * 65, False),
        ("PatientID", "a b", True),
        ("PatientID", "a\x1fb", False),
        ("PatientID", "a\x7fb", False),
        ("PatientID", "a~b", True),
        ("PatientSex", "F", True),
        ("PatientSex", "FM", False),
        ("PatientAge", "012M", True),
        ("PatientAge", "12M", False),
        ("PatientAge", "012X", False),
        ("TimezoneOffsetFromUTC", "+1459", True),
        ("TimezoneOffsetFromUTC", "+1500", False),
        ("TimezoneOffsetFromUTC", "-0060", False),
        ("PatientIdentityRemoved", "NO", True),
        ("PatientIdentityRemoved", "", False),
        ("PatientSex", "", True),
        ("DeidentificationMethod", ["a", "b"], True),
        ("StudyID", ["a", "b"], False),
        ("StudyID", "a" * 16, True),
        ("StudyID", "a" * 17, False),
    ],
)
def test_each_form_of_a_value_is_copied_or_left_out(keyword: str, value: Any, good: bool) -> None:
    assert left_out(**{keyword: value}) == (() if good else (keyword,))


def test_an_empty_item_and_an_item_of_an_invalid_value_are_left_out() -> None:
    good, bad = Dataset(), Dataset()
    good.LocalNamespaceEntityID, bad.LocalNamespaceEntityID = "hospital", "h\x07"
    name = "IssuerOfAccessionNumberSequence"
    for items, valid in (([good], True), ([bad], False), ([good, bad], False), ([Dataset()], False), ([], False)):
        assert left_out(**{name: items}) == (() if valid else (name,))


# ---------------------------------------------------------------------------------------------------------------- UIDs


@pytest.mark.parametrize("version", ["0.1.2", "0.9.0"])
def test_a_uid_is_the_same_for_the_same_work_in_every_version_but_a_major_one(
    monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    """What an archive has already: another number would send every result again as a new object."""
    identity = Identity("1.2.3", ("1.2.4", "1.2.5"), ALGORITHM, "binary")
    monkeypatch.setattr(uids, "version", lambda name: version if name == "medattn-edge" else "")
    assert identity.uid("instance", 1) == "2.25.299501940841975950421386756780660572784"
    others = [
        identity.uid("instance"),
        identity.uid("instance", 2),
        identity.uid("instanc", "e1"),
        replace(identity, kind="labelmap").uid("instance", 1),
        replace(identity, series_instance_uid="1.2.31").uid("instance", 1),
        replace(identity, algorithm=replace(ALGORITHM, settings="")).uid("instance", 1),
    ]
    monkeypatch.setattr(uids, "version", lambda name: "1.1.2")
    others.append(identity.uid("instance", 1))
    assert len({"2.25.299501940841975950421386756780660572784", *others}) == 8


@pytest.mark.parametrize(
    ("change", "good"),
    [({"name": "a" * 64}, True), ({"name": "a" * 65}, False), ({"name": " "}, False), ({"version": "1"}, True),
     ({"version": ""}, False), ({"version": "v" * 65}, False), ({"name": "a\tb"}, False), ({"version": "1\\2"}, False),
     ({"model_sha256": "0123456789abcdef" * 4}, True), ({"model_sha256": "5" * 65}, False),
     ({"model_sha256": "5" * 63}, False), ({"model_sha256": "A" * 64}, False),
     ({"model_sha256": "g" + "5" * 63}, False)],
)  # fmt: skip
def test_an_algorithm_has_texts_that_dicom_can_hold(change: dict[str, str], good: bool) -> None:
    if good:
        assert replace(ALGORITHM, **change).name
    else:
        with pytest.raises(UsageError) as caught:
            replace(ALGORITHM, **change)
        assert "64" in caught.value.expected


def test_a_series_is_called_by_twelve_digits() -> None:
    assert series_hash("1.2.3") == "f45c672e859f"
    assert series_hash("1.2.3", b"key") != series_hash("1.2.3")
    assert len(series_hash("1.2.3", b"key")) == 12
