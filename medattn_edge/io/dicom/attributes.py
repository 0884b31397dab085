"""What tells one volume of a series from another: times, echoes, b-values, kernels, magnitude and phase."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from medattn_edge.io.dicom.files import failures


def creator_tag(tag: int) -> int:
    """Of a private element: the element that names whose it is (PS3.5 7.8.1)."""
    return (tag >> 16 << 16) | (tag & 0xFFFF) >> 8


def is_owned(dataset: Any, tag: int, owner: str) -> bool:
    """Whether a private element is of a vendor."""
    return _text(dataset, creator_tag(tag)).upper() == owner


# Slices with different values of these are never of one volume, wherever they lie.
_KINDS = (
    *("ImageType", "ComplexImageComponent", "TemporalPositionIdentifier", "EchoNumbers", "EchoTime"),
    *("DiffusionBValue", "DiffusionGradientOrientation", "ConvolutionKernel", "KVP"),
)
# These also vary within one volume (each slice has its own time): they count only between slices at one position.
_ORDERS = (
    *("TriggerTime", "NominalPercentageOfCardiacPhase", "FrameReferenceTime", "InversionTime", "FlipAngle"),
    *("RepetitionTime", "AcquisitionNumber", "AcquisitionDateTime", "AcquisitionTime", "ContentTime", "InstanceNumber"),
)
# What vendors wrote before the standard had a place for it: Siemens' and GE's b-value, GE's kind of image. A private
# element is one vendor's only below that vendor's own name.
_PRIVATE: Mapping[str, tuple[tuple[int, str], ...]] = MappingProxyType(
    {
        "DiffusionBValue": ((0x0019100C, "SIEMENS MR HEADER"), (0x00431039, "GEMS_PARM_01")),
        "ComplexImageComponent": ((0x0043102F, "GEMS_PARM_01"),),
    }
)
# Of an enhanced image: the macro of a frame and the attributes in it.
_FRAME_KINDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "FrameContentSequence": ("StackID", "TemporalPositionIndex"),
        "MREchoSequence": ("EffectiveEchoTime",),
        "MRDiffusionSequence": ("DiffusionBValue", "DiffusionGradientDirectionSequence"),
        "MRImageFrameTypeSequence": ("FrameType", "ComplexImageComponent"),
        "CTImageFrameTypeSequence": ("FrameType",),
        "PETFrameTypeSequence": ("FrameType",),
        "CTReconstructionSequence": ("ConvolutionKernel",),
        "CTXRayDetailsSequence": ("KVP",),
    }
)
_FRAME_ORDERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "CardiacSynchronizationSequence": ("NominalCardiacTriggerDelayTime", "NominalPercentageOfCardiacPhase"),
        "TemporalPositionSequence": ("TemporalPositionTimeOffset",),
        "MRModifierSequence": ("InversionTimes",),
        "MRTimingAndRelatedParametersSequence": ("FlipAngle", "RepetitionTime"),
        "FrameContentSequence": ("FrameAcquisitionNumber", "FrameReferenceDateTime", "FrameAcquisitionDateTime"),
    }
)
TAGS: Final = (
    *(*_KINDS, *_ORDERS),
    *(number for tags in _PRIVATE.values() for tag, _ in tags for number in (tag, creator_tag(tag))),
)
"""What `single_frame` reads of a header."""

Pairs = tuple[tuple[str, str], ...]


def single_frame(dataset: Any) -> tuple[Pairs, Pairs]:
    """What tells a single-frame image's volume from another: (attributes that always do, those that may)."""
    kinds = []
    for name in _KINDS:
        value = _text(dataset, name)
        private = (_text(dataset, tag) for tag, owner in _PRIVATE.get(name, ()) if is_owned(dataset, tag, owner))
        kinds.append((name, value or next(filter(None, private), "")))
    return tuple(kinds), tuple((name, _text(dataset, name)) for name in _ORDERS)


def frame_attributes(shared: Any, own: Any, number: int) -> tuple[Pairs, Pairs]:
    """The same for a frame of an enhanced image, numbered from 1, out of the shared functional groups and its own."""
    kinds, orders = (
        tuple(
            (name, _text(_first(own, macro) or _first(shared, macro), name)) for macro in table for name in table[macro]
        )
        for table in (_FRAME_KINDS, _FRAME_ORDERS)
    )
    return kinds, (*orders, ("the number of the frame", str(number)))


def _text(item: Any, keyword: str | int) -> str:
    """A value as text, "" when there is none; numbers to five digits: one echo time is written as 2.3 and 2.29999."""
    if item is None:
        return ""
    try:
        value = item.get(keyword)
        value = getattr(value, "value", value) if isinstance(keyword, int) else value
        if keyword == "DiffusionGradientDirectionSequence":
            value = value[0].get("DiffusionGradientOrientation") if value else None
        if value is None:
            return ""
        parts = [value] if isinstance(value, str | bytes | int | float) else list(value)
        if keyword == 0x00431039:  # GE's b-value is the first of four numbers, with a flag in its higher digits
            parts = [int(parts[0]) % 100_000]
        return "\\".join(_part(part, keyword) for part in parts).strip(" \0")
    except failures():
        return "unreadable"  # which is another value than none


def _part(part: Any, keyword: str | int) -> str:
    if isinstance(part, bytes):
        part = part.decode("latin-1")
    if isinstance(part, str):
        return part.strip(" \0").upper() if keyword == "ImageType" else part.strip(" \0")
    whole = isinstance(part, int)
    return str(part) if whole else f"{float(part):.5g}"


def _first(item: Any, keyword: str) -> Any:
    sequence = item.get(keyword) if item is not None else None
    return sequence[0] if sequence else None
