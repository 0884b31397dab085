"""The patient and the study, as an object that is made from a series may repeat them: what is valid, and no more."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from types import MappingProxyType
from typing import Any, Final

from medattn_edge.io.dicom.files import failures

IDENTITY: Final = (
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientSex",
    "PatientAge",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "StudyDescription",
    "AccessionNumber",
    "IssuerOfAccessionNumberSequence",
    "ReferringPhysicianName",
    "TimezoneOffsetFromUTC",
)
"""By which an archive files an object; nothing else of the source is copied."""

# Type 2: without a value, but there.
_ALWAYS_THERE: Final = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID"),
    *("AccessionNumber", "ReferringPhysicianName"),
)
_FORMS = MappingProxyType(
    {
        "PatientSex": r"[MFO]?",
        "PatientIdentityRemoved": r"YES|NO",
        "PatientAge": r"\d{3}[DWMY]",
        "TimezoneOffsetFromUTC": r"[+-](0\d|1[0-4])[0-5]\d",
    }
)
_TIME = re.compile(r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?")


def valid_identity(header: Any) -> tuple[Any, tuple[str, ...]]:
    """The elements of `IDENTITY` that are valid (PS3.5 chapter 6), and the character set that their texts need.

    Args:
        header: of an instance, whose texts have not been read yet: only their bytes tell what they are.

    Returns:
        The elements, those of type 2 empty where the source's are not valid; and the keywords of what was left out.
    """
    from pydicom.dataset import Dataset

    kept, left_out = Dataset(), list[str]()
    sets, known = _character_set(header)
    if not known:
        left_out.append("SpecificCharacterSet")
    elif sets:
        kept.SpecificCharacterSet = sets if len(sets) > 1 else sets[0]
    for keyword in IDENTITY:
        if keyword not in header:
            continue
        try:
            good = _is_valid(header, keyword, sets)
        except failures():
            good = False
        if good:
            kept.add(header[keyword])
        else:
            left_out.append(keyword)
            if keyword in _ALWAYS_THERE:
                setattr(kept, keyword, "")
    return kept, tuple(left_out)


def is_date(text: str) -> bool:
    """Whether a text is a day of the calendar, as YYYYMMDD."""
    try:
        return bool(re.fullmatch(r"[12]\d{7}", text)) and bool(date(int(text[:4]), int(text[4:6]), int(text[6:])))
    except ValueError:
        return False


def is_time(text: str) -> bool:
    """Whether a text is a time of day, as HHMMSS.FFFFFF or a part of it."""
    return bool(_TIME.fullmatch(text))


def _character_set(header: Any) -> tuple[list[str], bool]:
    """The values of SpecificCharacterSet, and whether all of them are DICOM's."""
    from pydicom.charset import python_encoding

    value = header.get("SpecificCharacterSet")
    sets = [value] if isinstance(value, str) else [str(part) for part in value or ()]
    if not any(sets):
        return [], "SpecificCharacterSet" not in header
    # Only the first may be empty: ISO_IR 6, to which the others are extensions.
    known = all(name in python_encoding for name in sets) and all(sets[1:])
    return (sets, True) if known else ([], False)


def _is_valid(header: Any, keyword: str, sets: Sequence[str]) -> bool:
    from pydicom.datadict import dictionary_VM, dictionary_VR
    from pydicom.dataelem import RawDataElement

    element = header.get_item(keyword)
    vr = dictionary_VR(keyword)
    if vr == "UI":
        return True  # `header` has looked at it, and without it the object is in no study
    if vr == "SQ":
        items = list(header[keyword].value or ())
        return bool(items) and all(
            len(item) and all(_is_valid(item, part.keyword, sets) for part in item) for item in items
        )
    if isinstance(element, RawDataElement):
        text = _decoded(element.value or b"", sets)
    else:
        text = str(element.value if element.value is not None else "")
    if text is None:
        return False
    text = text.rstrip(" \0")
    parts = text.split("\\")
    if len(parts) > 1 and dictionary_VM(keyword) == "1":
        return False
    return all(_is_valid_value(keyword, vr, part) for part in parts)


def _decoded(value: bytes, sets: Sequence[str]) -> str | None:
    """Bytes as text in the character sets, None when they are none."""
    from pydicom.charset import convert_encodings, decode_bytes

    if not sets:
        return value.decode("ascii") if value.isascii() and b"\x1b" not in value else None
    text = str(decode_bytes(value, convert_encodings(list(sets)), set(map(ord, "\\^="))))
    return None if "�" in text or "\x1b" in text else text


def _is_valid_value(keyword: str, vr: str, text: str) -> bool:
    from pydicom import config
    from pydicom.valuerep import validate_value

    if not text:
        return keyword not in _FORMS or keyword == "PatientSex"
    if any(ord(letter) < 0x20 or ord(letter) == 0x7F for letter in text):
        return False
    if vr == "DA":
        return is_date(text)
    if vr == "TM":
        return is_time(text.strip())
    if keyword in _FORMS and not re.fullmatch(_FORMS[keyword], text.strip()):
        return False
    if vr == "PN" and any(len(group) > 64 or group.count("^") > 4 for group in text.split("=")):
        return False
    try:
        validate_value(vr, text, config.RAISE)
    except ValueError:
        return False
    return True
