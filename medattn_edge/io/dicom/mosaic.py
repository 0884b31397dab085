"""Siemens mosaics: MR images whose rows and columns are those of a picture of all slices side by side."""

from __future__ import annotations

import re
import struct
from typing import Any, Final

from medattn_edge.io.dicom.attributes import creator_tag, is_owned

_COUNT = 0x0019100A  # NumberOfImagesInMosaic
_OWNER = "SIEMENS MR HEADER"
_CSA = 0x00291010  # CSA Image Header Info
_NAME = b"NumberOfImagesInMosaic\0"
MOSAIC_TAGS: Final = (_COUNT, creator_tag(_COUNT), _CSA)
"""The private elements that `mosaic_slices` looks at."""


def mosaic_slices(dataset: Any) -> int:
    """How many slices an image shows side by side; 1 when it does not say how many, 0 for an image of one slice.

    Siemens says so in ImageType, in a private element and in its CSA header; anonymising removes one or another.
    """
    count = _value(dataset, _COUNT) if is_owned(dataset, _COUNT, _OWNER) else None
    counts = [_number(count), _in_csa(_value(dataset, _CSA))]
    if max(counts) > 1:
        return max(counts)
    kinds = dataset.get("ImageType") or ()
    return int("MOSAIC" in (kinds.upper().split("\\") if isinstance(kinds, str) else [str(k).upper() for k in kinds]))


def _value(dataset: Any, tag: int) -> Any:
    element = dataset.get(tag)
    return None if element is None else element.value


def _number(value: Any) -> int:
    """0 for what is none; the element is US, or bytes where its VR is not known."""
    if isinstance(value, bytes):
        return struct.unpack("<H", value)[0] if len(value) == 2 else 0
    return int(value) if isinstance(value, int | str) and str(value).strip().isdigit() else 0


def _in_csa(header: Any) -> int:
    """The number in a CSA header (format as documented by nibabel): name of 64 bytes, five words, then the values.

    Each value has four words, of which the first or the second is its length, and then its text.
    """
    if not isinstance(header, bytes) or (at := header.find(_NAME)) < 0:
        return 0
    values = header[at + 64 + 20 : at + 64 + 20 + 16 + 16]
    if len(values) < 17 or not any(0 < length <= 64 for length in struct.unpack_from("<2L", values)):
        return 0
    digits = re.match(rb"\s*(\d{1,4})\s*(\0|$)", values[16:])
    return int(digits[1]) if digits else 0
