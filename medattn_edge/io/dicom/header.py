"""The header of one DICOM file: which series it belongs to, and every slice in it, without its pixels."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from medattn_edge.io.dicom.attributes import TAGS
from medattn_edge.io.dicom.extent import check_encapsulated, check_native, check_start
from medattn_edge.io.dicom.files import (
    DEFLATED,
    DICOMDIR_CLASS,
    check_inflated,
    data_set_start,
    failures,
    quiet,
    without_preamble,
)
from medattn_edge.io.dicom.mosaic import MOSAIC_TAGS, mosaic_slices
from medattn_edge.io.dicom.planes import ImagePlane, planes_of
from medattn_edge.io.dicom.reasons import RefusedSeries
from medattn_edge.io.dicom.storage import check_decoder, storage_of

_ROOT = "1.2.840.10008.5.1.4.1.1."
# The classes of images that are slices of a scan: single-frame; enhanced, and enhanced converted from single-frame.
_SINGLE = {_ROOT + "2": "CT", _ROOT + "4": "MR", _ROOT + "128": "PT"}
ENHANCED = {
    _ROOT + "2.1": "CT",
    _ROOT + "4.1": "MR",
    _ROOT + "130": "PT",
    _ROOT + "2.2": "CT",
    _ROOT + "4.4": "MR",
    _ROOT + "128.1": "PT",
}
_KNOWN = _SINGLE | ENHANCED

_TAGS: Final = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality"),
    "PatientID",
    *("BodyPartExamined", "SeriesDescription", "ImageType", "NumberOfFrames", "Rows", "Columns", "SamplesPerPixel"),
    *("PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation"),
    *("PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept", "RescaleType"),
    *("ModalityLUTSequence", "ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing"),
    *TAGS,
    *MOSAIC_TAGS,
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)
_UID = re.compile(r"[0-9]+(\.[0-9]+)+")


@dataclass(frozen=True)
class Header:
    """One file; its repr shows no identifier and no free text.

    Attributes:
        path: of the file.
        sop_class_uid: "" when it cannot be read, as every text here.
        sop_instance_uid: of the object.
        series_uid: of the series that it belongs to.
        study_uid: of the study.
        frame_of_reference_uid: of the patient's coordinates.
        modality: upper-case letters.
        body_part: for choosing a model.
        description: of the series.
        image_type: the values in upper case.
        planes: every slice, in the order of the frames; empty when it is refused.
        refusal: why the file cannot be used, None when it can.
        patient_id: to compare with that of another series, never for a log.
    """

    path: Path = field(repr=False)
    sop_class_uid: str = ""
    sop_instance_uid: str = field(default="", repr=False)
    series_uid: str = field(default="", repr=False)
    study_uid: str = field(default="", repr=False)
    frame_of_reference_uid: str = field(default="", repr=False)
    modality: str = ""
    body_part: str = field(default="", repr=False)
    description: str = field(default="", repr=False)
    image_type: tuple[str, ...] = ()
    planes: tuple[ImagePlane, ...] = field(default=(), repr=False)
    refusal: RefusedSeries | None = None
    patient_id: str = field(default="", repr=False)


def read_header(path: Path) -> Header | None:
    """The header of a file, a refused one for a damaged file; None for a DICOMDIR, which is a list and no object."""
    with quiet():
        try:
            dataset, start = _open(path)
        except RefusedSeries as refusal:
            return Header(path, refusal=refusal)
        except failures() as error:
            return Header(path, refusal=RefusedSeries("unreadable", f"a file is not DICOM ({type(error).__name__})"))
        sop_class = _text(dataset, "SOPClassUID")
        if DICOMDIR_CLASS in (sop_class, _text(dataset.file_meta, "MediaStorageSOPClassUID")):
            return None
        planes, refused = _judged(path, dataset, start)
        return Header(
            path,
            sop_class,
            sop_instance_uid=_text(dataset, "SOPInstanceUID"),
            series_uid=_text(dataset, "SeriesInstanceUID"),
            study_uid=_text(dataset, "StudyInstanceUID"),
            frame_of_reference_uid=_text(dataset, "FrameOfReferenceUID"),
            modality=_code(_text(dataset, "Modality")),
            body_part=_text(dataset, "BodyPartExamined"),
            description=_text(dataset, "SeriesDescription"),
            image_type=tuple(_text(dataset, "ImageType").upper().split("\\")),
            planes=planes,
            refusal=refused,
            patient_id=_text(dataset, "PatientID"),
        )


def _open(path: Path) -> tuple[Any, int]:
    """The header's elements, and where the pixel data element starts."""
    import pydicom

    with path.open("rb") as file:
        if without_preamble(file.read(256)):
            return _without_preamble(file)
        file.seek(0)
        meta = pydicom.filereader.read_file_meta_info(path)
        if _text(meta, "TransferSyntaxUID") == DEFLATED:
            check_inflated(file, data_set_start(meta))
            file.seek(0)
        dataset = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=cast("list[str]", list(_TAGS)))
        return dataset, file.tell()


def _without_preamble(file: BinaryIO) -> tuple[Any, int]:
    """`_open` for a file that begins with its first element; a data set alone shows by its form how it is written."""
    import pydicom
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    file.seek(0)
    dataset = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=cast("list[str]", list(_TAGS)))
    if not _text(dataset.file_meta, "TransferSyntaxUID"):
        implicit, little = dataset.original_encoding
        native = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else native
    if _text(dataset.file_meta, "TransferSyntaxUID") == DEFLATED:
        raise RefusedSeries("unreadable", "a deflated file without the 128 bytes that DICOM files begin with")
    return dataset, file.tell()


def _judged(path: Path, dataset: Any, start: int) -> tuple[tuple[ImagePlane, ...], RefusedSeries | None]:
    """The slices of the file, or the reason why there are none."""
    try:
        return _planes(path, dataset, start), None
    except RefusedSeries as refusal:
        return (), refusal
    except failures() as error:
        commas = _with_commas(dataset)
        if commas:
            return (), RefusedSeries(
                "unreadable",
                f"decimal commas where DICOM has points, in {', '.join(commas)}",
                hint="set the program that wrote the series to decimal points, and export it again",
            )
        return (), RefusedSeries("unreadable", f"the header is damaged ({type(error).__name__})")


def _with_commas(dataset: Any) -> list[str]:
    """The keywords of numbers that are written with a comma, those in sequences too."""
    from pydicom.datadict import dictionary_VR, keyword_for_tag
    from pydicom.dataelem import RawDataElement
    from pydicom.dataset import Dataset

    found: dict[str, None] = {}
    waiting = [dataset]
    while waiting:
        item = waiting.pop()
        for tag in item.keys():  # noqa: SIM118 - iterating converts the values, which is what failed
            # What cannot be looked at either is damage of another kind.
            with suppress(*failures()):
                raw, name = item.get_item(tag), keyword_for_tag(tag)
                # pydicom leaves the texts of several values as they are, and refuses a single one.
                if dictionary_VR(tag) == "DS" and "," in (
                    (raw.value or b"").decode("latin-1") if isinstance(raw, RawDataElement) else _text(item, name)
                ):
                    found[name] = None
                elif dictionary_VR(tag) == "SQ":
                    # A damaged length may leave a text where a sequence should be.
                    waiting += [one for one in item[tag].value or () if isinstance(one, Dataset)]
    return list(found)


def _planes(path: Path, dataset: Any, start: int) -> tuple[ImagePlane, ...]:
    """Every check in turn, so that the first and plainest reason is the one given."""
    sop_class = _text(dataset, "SOPClassUID")
    enhanced = sop_class in ENHANCED
    if sop_class and sop_class not in _KNOWN:
        kind = "unsupported_modality" if "Rows" in dataset else "not_an_image"
        raise RefusedSeries(kind, f"objects of the class {_class_name(sop_class)}")
    if not sop_class and not _text(dataset.file_meta, "MediaStorageSOPClassUID"):
        raise RefusedSeries("unreadable", "a file does not say what kind of object it is")
    with path.open("rb") as file:
        file.seek(start)
        deflated = _text(dataset.file_meta, "TransferSyntaxUID") == DEFLATED
        length = 0 if deflated else check_start(file, dataset)
        if not sop_class:
            raise RefusedSeries("unreadable", "a file does not say what kind of object it is")
        if _code(_text(dataset, "Modality")) != _KNOWN[sop_class]:
            raise RefusedSeries("unsupported_modality", f"a {_KNOWN[sop_class]} image of another modality")
        for name in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID"):
            uid = _text(dataset, name)
            if not uid and name == "FrameOfReferenceUID":
                continue  # most series that were made anonymous have none; only what refers to them needs one
            if len(uid) > 64 or not _UID.fullmatch(uid):
                raise RefusedSeries("blank_uid", f"the {name} is {'not a UID' if uid else 'empty'}")
        if slices := mosaic_slices(dataset):
            raise RefusedSeries("mosaic", f"{slices} slices in one picture" if slices > 1 else "a mosaic of slices")
        storage = storage_of(dataset, enhanced=enhanced)
        check_decoder(storage)
        if storage.encapsulated:
            check_encapsulated(file, length, storage)
        elif not deflated:
            check_native(file, length, storage.frame_bytes * storage.frames)
    return planes_of(path, dataset, storage, enhanced=enhanced)


def _text(dataset: Any, keyword: str) -> str:
    """A value as text, "" when it is missing, unreadable or no text; several values stand between backslashes."""
    try:
        value = dataset.get(keyword)
        parts = [value] if isinstance(value, str) else list(value or ())
    except failures():
        return ""
    # A damaged file may hold a whole sequence in this place.
    return "\\".join(parts).strip(" \0") if all(isinstance(part, str) for part in parts) else ""


def _code(text: str) -> str:
    """A modality, or "": it is shown in tables and logs, and a damaged file may hold anything in its place."""
    return text if re.fullmatch("[A-Z]{2,10}", text) else ""


def _class_name(uid: str) -> str:
    """The standard's name of a class; what a file invents is not repeated."""
    from pydicom.uid import UID

    name = UID(uid).name
    return "an unknown class" if name == uid else f"'{name}'"
