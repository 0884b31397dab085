"""What tells one volume of a series from another: times, echoes, b-values, kernels, magnitude and phase."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from medattn_edge.io.dicom.files import failures

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
# What vendors wrote before the standard had a place for it: Siemens' and GE's b-value, GE's kind of image.
_PRIVATE: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {"DiffusionBValue": (0x0019100C, 0x00431039), "ComplexImageComponent": (0x0043102F,)}
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
TAGS: Final = (*_KINDS, *_ORDERS, *(tag for tags in _PRIVATE.values() for tag in tags))
"""What `single_frame` reads of a header."""

Pairs = tuple[tuple[str, str], ...]


def single_frame(dataset: Any) -> tuple[Pairs, Pairs]:
    """What tells a single-frame image's volume from another: (attributes that always do, those that may)."""
    kinds = []
    for name in _KINDS:
        value = _text(dataset, name)
        private = (_text(dataset, tag) for tag in _PRIVATE.get(name, ()))
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
        # What cannot be read can still differ.
        return repr(getattr(item.get_item(keyword), "value", ""))


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
