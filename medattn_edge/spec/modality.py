"""Modalities: DICOM's names of them, and what a spec that names one asks of a scan."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import Final

# What people type, and what DICOM's Modality (0008,0060) says instead.
_USUAL: Final = MappingProxyType({"PET": "PT", "MRI": "MR", "MRT": "MR"})


def dicom_modality(text: str) -> str:
    """A modality as DICOM writes it: `MR` of `mri`, `PT` of `PET`; any other text in upper case."""
    upper = text.strip().upper()
    return _USUAL.get(upper, upper)


def modalities_of(text: str) -> tuple[str, ...]:
    """The modalities that a spec names, as DICOM writes them: one, several joined by + , or /, or none.

    A network of several channels may see two, such as `PT+CT`.
    """
    return tuple(dicom_modality(word) for word in re.split(r"[+,/\s]+", text) if word)
